"""Adding an event to the journal, with the messages about it: the same for checks, refreshes, programs and hosts."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from restart_guard import clock
from restart_guard.config.options import Config
from restart_guard.ids import new_run_id
from restart_guard.journal.journal import Event, Journal

Delivery = tuple[str, Any]
"""A destination and its payload."""


def messages(config: Config, text: str, *, mention: bool) -> list[Delivery]:
    """A message as deliveries, one for each alert channel. With ``mention`` the configured people are notified."""
    message = {"text": config.redact(text), "mention": mention}
    return [(channel, message) for channel in config.alert_channels]


def append(
    config: Config,
    journal: Journal,
    subject: tuple[str, str],
    *,
    ok: bool,
    detail: str,
    run_id: str = "",
    at: datetime | None = None,
    data: Mapping[str, Any] | None = None,
    deliveries: Sequence[Delivery] = (),
) -> None:
    """Add an event and its deliveries; only inside a transaction. Raises JournalError.

    ``subject`` is (kind, name); ``run_id`` and ``at`` are made if they are not given, the host is added to ``data``.
    """
    kind, name = subject
    event = Event(
        run_id=run_id or new_run_id(),
        at=at or clock.now(),
        kind=kind,
        subject=name,
        status="success" if ok else "failure",
        detail=config.redact(detail),
        data={"host": os.uname().nodename, **(data or {})},
    )
    journal.append(event, deliveries)
