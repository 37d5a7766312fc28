"""Which scheduled jobs have missed their last time, for the hourly catch-up.

The clock of this process may be another than cron's: ``TZ=`` in the crontab, a container with ``-e TZ=``, a time zone
that was changed since cron was started. So a run within half a day of a scheduled time counts as the run of that time;
and if ticks came all along, cron was there, and its own run is waited for that long. A job that is new has missed
nothing.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from restart_guard import clock
from restart_guard.config.options import Config
from restart_guard.journal.journal import Journal, Wanted
from restart_guard.timer.schedule import Schedule, check_schedule, last_slot

_HALF_A_DAY = timedelta(hours=12)


class Scheduled(NamedTuple):
    """A job with a schedule: a ``kind`` of event and its ``subject``."""

    kind: str
    subject: str
    schedule: Schedule


def scheduled(config: Config) -> list[Scheduled]:
    """The checks, and the refreshes that have a schedule."""
    checks = [Scheduled("check", name, check_schedule(config, name)) for name in config.checks]
    refreshes = [
        Scheduled("refresh", name, Schedule(refresh.schedule, f"refreshes.{name}.schedule"))
        for name, refresh in config.refreshes.items()
        if refresh.schedule is not None
    ]
    return checks + refreshes


def has_missed(
    journal: Journal, job: Scheduled, *, late_s: float = 0.0, only_look: bool = False, now: datetime | None = None
) -> bool:
    """Whether a job did not run at its last scheduled time, or was killed midway; one that may be ``late_s`` late has
    so much longer. A new one is remembered as seen, unless with ``only_look``. Raises ConfigError, JournalError."""
    now = now or clock.now()
    slot = last_slot(job.schedule, now=now - timedelta(seconds=late_s))
    before = last_slot(job.schedule, now=slot - timedelta(seconds=1))
    tolerance = min(_HALF_A_DAY, (slot - before) / 2)
    ran, seen = last_run(journal, job), first_seen(journal, job)
    if ran is not None and ran >= slot - tolerance:
        return False
    if seen is None and ran is None:
        if not only_look:
            note_seen(journal, job)
        return False
    if seen is not None and slot <= seen:
        return False
    began = _moment(journal.recall(_fact(job.kind, job.subject, "began")))
    if began is not None and began >= slot - tolerance:
        return True
    return not (_cron_was_there(journal, slot) and now < slot + tolerance)


def _cron_was_there(journal: Journal, slot: datetime) -> bool:
    last, since = _moment(journal.recall("tick")), _moment(journal.recall("tick.since"))
    return last is not None and since is not None and since <= slot <= last


def last_run(journal: Journal, job: Scheduled) -> datetime | None:
    """When the last run ended that has an outcome, good or bad."""
    events = journal.history(Wanted(kind=job.kind, subject=job.subject), limit=1)
    return datetime.fromisoformat(events[0]["at"]) if events else None


def first_seen(journal: Journal, job: Scheduled) -> datetime | None:
    """When a job was first noticed: only times after that count."""
    return _moment(journal.recall(_fact(job.kind, job.subject, "seen")))


def note_seen(journal: Journal, job: Scheduled) -> None:
    """Remember a job that is new."""
    with journal.transaction():
        if journal.recall(_fact(job.kind, job.subject, "seen")) is None:
            journal.remember(_fact(job.kind, job.subject, "seen"), clock.stamp(clock.now()))


def note_began(journal: Journal, kind: str, subject: str) -> None:
    """Remember that a run begins, so that one that is killed is made up for."""
    with journal.transaction():
        journal.remember(_fact(kind, subject, "began"), clock.stamp(clock.now()))


def _fact(kind: str, subject: str, what: str) -> str:
    return f"{kind}.{subject}.{what}"


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
