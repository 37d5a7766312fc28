"""The weekly job: read, recover, read again; record the outcome, bring it to MySQL and, if the data stays bad, to a
person."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from restart_guard import bug_log, clock
from restart_guard.checks import messages, read
from restart_guard.checks.outcome import Attempt, Outcome, Reading
from restart_guard.checks.recovery import recover
from restart_guard.config.load import picked
from restart_guard.config.options import Check, Config
from restart_guard.durations import span
from restart_guard.errors import GuardError, JournalError, Remedy, StoreError, UsageError
from restart_guard.ids import new_run_id
from restart_guard.journal.due import has_missed, note_began, scheduled
from restart_guard.journal.journal import Journal
from restart_guard.journal.record import JournalEntry, Recorded, Say, finish, start_ping
from restart_guard.lock import held
from restart_guard.redis_server import client as redis_client
from restart_guard.redis_server import persistence
from restart_guard.refreshes.job import related

KIND = "check"
_DANGER = "redis.danger"


class Result(NamedTuple):
    """An outcome, and where it was recorded. ``full_ttl`` is the check's."""

    outcome: Outcome
    recorded: Recorded
    full_ttl: float | None

    def shown(self) -> dict[str, Any]:
        """The object of ``check-redis --json``."""
        outcome = self.outcome
        return {
            "check": outcome.check,
            "run_id": outcome.run_id or None,
            "status": outcome.status,
            "reads": outcome.reads,
            "attempts": len(outcome.attempts),
            **particulars(outcome, self.full_ttl),
            "detail": messages.summary(outcome, "en"),
            "delivered": self.recorded.delivered,
        }


class _Start(NamedTuple):
    """When a run began: by the wall clock, and by ``clock.monotonic``."""

    at: datetime
    monotonic: float

    @classmethod
    def now(cls) -> "_Start":
        return cls(clock.now(), clock.monotonic())


def chosen(config: Config, names: Sequence[str]) -> dict[str, Check]:
    """The named checks, or all. Raises UsageError for an unknown name, and if the config has no check."""
    chosen_names = picked(config.checks, names, what="check", path=config.path)
    if not config.checks:
        raise UsageError(f"{config.path} has no [checks.NAME]: there is nothing to check.")
    return {name: config.checks[name] for name in chosen_names}


def due(config: Config, checks: dict[str, Check], *, late_s: float = 0.0) -> dict[str, Check]:
    """The checks that missed their last scheduled time, for example because the machine was asleep.

    A run that failed counts as a run: it was recorded and alerted. A check that may be ``late_s`` late is not due
    before that. Raises ConfigError, JournalError.
    """
    with Journal.open(config.state_dir) as journal:
        missed = {
            job.subject
            for job in scheduled(config)
            if job.kind == KIND and job.subject in checks and has_missed(journal, job, late_s=late_s)
        }
    return {name: check for name, check in checks.items() if name in missed}


def read_only(config: Config, checks: dict[str, Check], *, progress: read.Progress) -> Iterator[Result]:
    """Read each check once; nothing is recovered, recorded or sent."""
    for name, check in checks.items():
        start = _Start.now()
        reading = read.read(config.redis, check, progress=progress)
        yield Result(_outcome(config, name, start, reading), Recorded({}), check.full_ttl)


def run(
    config: Config, checks: dict[str, Check], *, progress: read.Progress, say: Say, late_s: float | None = None
) -> Iterator[Result]:
    """Do the job for each check, with ``late_s`` for each that is due. Raises BusyError if another process works on one
    of them."""
    down: set[str] = set()
    refreshes = {name for check in checks.values() for name in related(config, check)}
    locks = [*(f"check-{name}" for name in checks), *(f"refresh-{name}" for name in refreshes)]
    with held(config.state_dir, locks, what="A check or refresh of this data"):
        if late_s is not None:
            checks = due(config, checks, late_s=late_s)  # again: another process may have just done it
        for name, check in checks.items():
            run_id = new_run_id()
            with contextlib.suppress(JournalError), Journal.open(config.state_dir) as journal:
                note_began(journal, KIND, name)
            start = start_ping(config, KIND, name, run_id)
            outcome = _healed_or_failed(config, name, check, progress=progress, say=say)._replace(run_id=run_id)
            if start is not None:
                start.wait()
            more = particulars(outcome, check.full_ttl)
            data = {"reads": outcome.reads, "attempts": len(outcome.attempts), **more}
            entry = JournalEntry(KIND, name, outcome, messages, data, "get_redis_data.log")
            yield Result(outcome, finish(config, entry, down, say), check.full_ttl)


def _healed_or_failed(config: Config, name: str, check: Check, *, progress: read.Progress, say: Say) -> Outcome:
    """The outcome of the job. What stops it midway, also a bug of ours, is a failure like any other: recorded, and told
    to a person."""
    start = _Start.now()
    try:
        return _heal(config, name, check, progress=progress, say=say)
    except GuardError as error:
        trouble = StoreError(str(error), code="stopped", remedy=Remedy.PERSON)
    except Exception as error:  # noqa: BLE001 (nobody looks at the exit code of a job at 2 a.m.)
        say(f"{name}: {bug_log.write(config.state_dir, error, config.redact)}")
        trouble = StoreError(type(error).__name__, code="bug", remedy=Remedy.PERSON)
    return _outcome(config, name, start, Reading(0, trouble=trouble))


def _heal(config: Config, name: str, check: Check, *, progress: read.Progress, say: Say) -> Outcome:
    """At most 1 + retries reads, with a recovery or a wait between two."""
    start = _Start.now()
    attempts: list[Attempt] = []
    reading = read.read(config.redis, check, progress=progress)
    _remember_danger(config, reading)
    while not reading.good and reading.remedy is not Remedy.PERSON and len(attempts) < check.retries:
        bad = messages.what_is_wrong(_outcome(config, name, start, reading), "en")
        say(f"{name}: {bad}; restart attempt {len(attempts) + 1} of {check.retries}")
        attempts.append(_attempt(config, name, check, reading, say))
        say(f"{name}: {messages.attempt_text(attempts[-1], 'en')}")
        clock.sleep(check.retry_delay)
        reading = read.read(config.redis, check, progress=progress)
    return _outcome(config, name, start, reading, tuple(attempts))


def _attempt(config: Config, name: str, check: Check, reading: Reading, say: Say) -> Attempt:
    if reading.remedy is Remedy.WAIT:
        synced = reading.trouble is not None and reading.trouble.code == "unsynced"
        ready = redis_client.wait_until_ready(config.redis, check.wait_timeout, synced=synced)
        return Attempt("wait", "ready") if ready else Attempt("wait", "not_ready", span(check.wait_timeout))
    kind = check.recover.partition(":")[0]
    danger = None if check.recover_when_unsafe or kind not in ("command", "restart") else _danger(config)
    if danger is not None:
        return Attempt(kind, "refused", danger)
    done = recover(config, name, check, say)
    return done._replace(detail=config.redact(done.detail), said=config.redact(done.said))


def _danger(config: Config) -> str | None:
    """Why a restart of Redis could lose data: as the server says now or, if it does not answer, as it said last."""
    try:
        return persistence.danger(config.redis)
    except StoreError:
        with contextlib.suppress(JournalError), Journal.open(config.state_dir) as journal:
            return journal.recall(_DANGER) or None
        return None


def _remember_danger(config: Config, reading: Reading) -> None:
    """Keep what a running server says about a restart, for the day when it does not answer."""
    if reading.trouble is not None:
        return
    with contextlib.suppress(JournalError, StoreError):
        danger = persistence.danger(config.redis)
        with Journal.open(config.state_dir) as journal:
            journal.remember(_DANGER, danger or "")


def _outcome(config: Config, name: str, start: _Start, reading: Reading, attempts: tuple[Attempt, ...] = ()) -> Outcome:
    return Outcome(
        run_id="",
        check=name,
        started_at=start.at,
        duration_s=clock.monotonic() - start.monotonic,
        reading=reading,
        attempts=attempts,
        server=redis_client.name(config.redis),
        host=os.uname().nodename,
    )


def particulars(outcome: Outcome, full_ttl: float | None) -> dict[str, Any]:
    """The fields that the journal and --json have beside the summary. ``least_ttl_s``, ``age_s`` and ``size`` are those
    of the last read; None if they are not known."""
    reading, least = outcome.reading, outcome.reading.least_ttl_s
    return {
        "bad": [{"key": bad.key, "reason": messages.reason(bad, "en")} for bad in reading.bad],
        "bad_total": reading.bad_total,
        "error": reading.trouble.code if reading.trouble else None,
        "keys": reading.keys,
        "least_ttl_s": None if least is None else round(least, 1),
        "age_s": None if least is None or full_ttl is None else round(full_ttl - least, 1),
        "size": reading.size,
        "read_ms": round(reading.took_s * 1000),
        "recoveries": [attempt._asdict() | {"ok": attempt.ok} for attempt in outcome.attempts],
        "duration_ms": round(outcome.duration_s * 1000),
        "server": outcome.server,
    }
