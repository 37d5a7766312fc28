"""Adding an event to the journal, with the messages about it: the same for checks, refreshes, programs and hosts."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from restart_guard import clock
from restart_guard.alerts.wording import Language
from restart_guard.config.options import Config
from restart_guard.ids import new_run_id
from restart_guard.journal.journal import Event, Journal

Delivery = tuple[str, Any]
"""A destination and its payload."""


def messages(
    config: Config,
    subject: tuple[str, str],
    words: Callable[[Language], str],
    *,
    mention: bool,
    incident: str = "",
    recovered: bool = False,
) -> list[Delivery]:
    """A message about a subject, (kind, name), as deliveries: one for each alert channel that wants it, in the language
    of each. With ``mention`` the configured people are notified."""
    texts: dict[Language, str] = {}
    found: list[Delivery] = []
    for channel in config.alert_channels:
        if channel in config.alerts and not config.alerts[channel].wants(*subject):
            continue
        language = config.language_of(channel)
        if language not in texts:
            texts[language] = config.redact(words(language))
        message: dict[str, Any] = {"text": texts[language], "mention": mention}
        if channel in config.alerts:
            common = config.alerts[channel].common
            message |= {"incident": incident, "recovered": recovered}
            if common.fallback_for is not None:
                at = clock.now() + timedelta(seconds=common.after)
                message |= {"fallback_for": common.fallback_for, "not_before": clock.stamp(at)}
        found.append((channel, message))
    return found


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
    shown = {
        "kind": kind,
        "name": name,
        "at": clock.stamp(event.at),
        "run_id": event.run_id,
        "status": event.status,
        "detail": event.detail,
        **event.data,
    }
    with_event = [
        (destination, payload | {"event": shown} if destination in config.alerts else payload)
        for destination, payload in deliveries
    ]
    journal.append(event, with_event)
