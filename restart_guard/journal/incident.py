"""When a person is alerted: once when something breaks, again after an interval while it stays broken, once when it is
well again. The incident so far and an outcome give the incident now and the notice to send."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from restart_guard.counts import counted
from restart_guard.durations import span


class Notice(StrEnum):
    NONE = "none"
    FIRST = "first"
    REPEAT = "repeat"
    RECOVERED = "recovered"


class Incident(NamedTuple):
    """Failures in a row. ``id`` is in every message about it; ``notices`` is the number of queued messages."""

    id: str
    opened_at: datetime
    failures: int
    notices: int
    last_notice_at: datetime | None


def ended(incident: Incident, at: datetime) -> dict[str, str | int]:
    """The words of a recovery: how long it ``lasted``, and its ``failures``, in English ``failed_runs``."""
    return {
        "lasted": span(max(0.0, (at - incident.opened_at).total_seconds())),
        "failures": incident.failures,
        "failed_runs": counted(incident.failures, "failed run"),
    }


def advance(
    incident: Incident | None, *, ok: bool, now: datetime, repeat_interval_s: float, can_notify: bool, fresh: Incident
) -> tuple[Incident | None, Notice]:
    """The incident after an outcome (None: all is well) and the notice to send; ``fresh`` is used if no incident is
    open.

    A last notice in the future means that the wall clock was set back: then a notice is due, rather than silence.
    """
    if ok:
        return None, Notice.RECOVERED if incident is not None and incident.notices and can_notify else Notice.NONE
    failing = incident or fresh
    failing = failing._replace(failures=failing.failures + 1)
    last = failing.last_notice_at
    due = last is None or last > now or (now - last).total_seconds() >= repeat_interval_s
    if not (due and can_notify):
        return failing, Notice.NONE
    notice = Notice.REPEAT if failing.notices else Notice.FIRST
    return failing._replace(notices=failing.notices + 1, last_notice_at=now), notice
