"""The weekly job: read, heal, read again; record the outcome in one transaction; bring it to MySQL and to a person.

Nothing is delivered that is not in the journal first, with one exception: a journal that cannot be written must not
silence the alert, so the outcome then goes to its destinations directly and the run fails.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from restart_guard import clock, delivery, ping, redis_client, redis_store
from restart_guard.config import picked
from restart_guard.errors import JournalError, Remedy, StoreError, UsageError
from restart_guard.freshness import span
from restart_guard.incident import Incident, Notice, advance
from restart_guard.journal import Event, Journal, new_run_id
from restart_guard.lock import held
from restart_guard.messages import Language, attempt_text, notice, reason, row, summary, unrecorded, what_is_wrong
from restart_guard.outcome import Attempt, Outcome, Reading
from restart_guard.recovery import recover
from restart_guard.schedule import last_slot
from restart_guard.settings import Check, Config, Timer

KIND = "check"
_DANGER = "redis.danger"

Say = Callable[[str], None]
"""Takes a diagnostic line while a check runs."""


class Result(NamedTuple):
    """An outcome and which destinations have it; ``journal_error`` says why it is not in the journal."""

    outcome: Outcome
    delivered: dict[str, bool]
    journal_error: str | None

    def shown(self) -> dict[str, Any]:
        """The object of ``check-redis --json``."""
        outcome = self.outcome
        return {
            "check": outcome.check,
            "run_id": outcome.run_id or None,
            "status": outcome.status,
            "reads": outcome.reads,
            "attempts": len(outcome.attempts),
            **particulars(outcome),
            "detail": summary(outcome, "en"),
            "delivered": self.delivered,
        }


def chosen(config: Config, names: Sequence[str]) -> dict[str, Check]:
    """The named checks, or all. Raises UsageError for a name that the config does not have, and without any check."""
    chosen_names = picked(config.checks, names, what="check", path=config.path)
    if not config.checks:
        raise UsageError(f"{config.path} has no [checks.NAME]: there is nothing to check.")
    return {name: config.checks[name] for name in chosen_names}


def due(config: Config, checks: dict[str, Check]) -> dict[str, Check]:
    """Those whose last scheduled moment passed without a run, as when the machine slept through it.

    A run that failed counts: it was recorded and told. Raises ConfigError, JournalError.
    """
    slot = last_slot((config.timer or Timer()).check_redis, option="timer.check_redis", now=clock.now())
    journal = Journal.open_to_read(config.state_dir)
    found = {}
    for name, check in checks.items():
        events = journal.history(kind=KIND, subject=name, limit=1) if journal is not None else []
        if not events or datetime.fromisoformat(events[0]["at"]) < slot:
            found[name] = check
    return found


def read_only(config: Config, checks: dict[str, Check], *, progress: redis_store.Progress) -> Iterator[Result]:
    """Read each check once; nothing is healed, recorded or sent."""
    for name, check in checks.items():
        begun, began_at = clock.monotonic(), clock.now()
        reading = redis_store.read(config.redis, check, progress=progress)
        yield Result(_outcome(config, name, (began_at, begun), reading), {}, None)


def run(config: Config, checks: dict[str, Check], *, progress: redis_store.Progress, say: Say) -> Iterator[Result]:
    """Do the job for each check. Raises BusyError when another process has one of them in hand.

    A destination that fails is left alone for the rest of the run, so that it costs its time once.
    """
    down: set[str] = set()
    with held(config.state_dir, [f"check-{name}" for name in checks], what="check-redis"):
        for name, check in checks.items():
            run_id = new_run_id()
            start = ping.Start(config.ping, ping.check_job(name), run_id) if config.ping is not None else None
            outcome = _heal(config, name, check, progress=progress, say=say)._replace(run_id=run_id)
            if start is not None:
                start.wait()
            try:
                with Journal.open(config.state_dir) as journal:
                    record(config, journal, outcome)
            except JournalError as error:
                yield _unrecorded(config, outcome, str(error), say)
                continue
            yield _deliver(config, outcome, down, say)


def _heal(config: Config, name: str, check: Check, *, progress: redis_store.Progress, say: Say) -> Outcome:
    """At most 1 + retries reads, with a recovery or a wait between two."""
    begun, began_at = clock.monotonic(), clock.now()
    attempts: list[Attempt] = []
    reading = redis_store.read(config.redis, check, progress=progress)
    _remember_danger(config, reading)
    while not reading.good and reading.remedy is not Remedy.PERSON and len(attempts) < check.retries:
        bad = what_is_wrong(_outcome(config, name, (began_at, begun), reading), "en")
        say(f"{name}: {bad}; restart attempt {len(attempts) + 1} of {check.retries}")
        attempts.append(_attempt(config, name, check, reading.remedy))
        say(f"{name}: {attempt_text(attempts[-1], 'en')}")
        clock.sleep(check.retry_delay)
        reading = redis_store.read(config.redis, check, progress=progress)
    return _outcome(config, name, (began_at, begun), reading, tuple(attempts))


def _attempt(config: Config, name: str, check: Check, remedy: Remedy) -> Attempt:
    if remedy is Remedy.WAIT:
        ready = redis_client.wait_until_ready(config.redis, check.wait_timeout)
        return Attempt("wait", "ready") if ready else Attempt("wait", "not_ready", span(check.wait_timeout))
    kind = check.recover.partition(":")[0]
    danger = None if check.recover_when_unsafe or kind not in ("command", "restart") else _danger(config)
    if danger is not None:
        return Attempt(kind, "refused", danger)
    done = recover(config, name, check)
    return done._replace(detail=config.redact(done.detail), said=config.redact(done.said))


def _danger(config: Config) -> str | None:
    """Why a restart of Redis could lose data: as it says now, or, when it does not answer, as it said last."""
    try:
        return redis_client.danger(config.redis)
    except StoreError:
        with contextlib.suppress(JournalError), Journal.open(config.state_dir) as journal:
            return journal.recall(_DANGER) or None
        return None


def _remember_danger(config: Config, reading: Reading) -> None:
    """Keep what a server that answers says of a restart, for the day when it does not answer."""
    if reading.trouble is not None:
        return
    with contextlib.suppress(JournalError, StoreError):
        danger = redis_client.danger(config.redis)
        with Journal.open(config.state_dir) as journal:
            journal.remember(_DANGER, danger or "")


def _outcome(
    config: Config, name: str, began: tuple[datetime, float], reading: Reading, attempts: tuple[Attempt, ...] = ()
) -> Outcome:
    return Outcome(
        run_id="",
        check=name,
        started_at=began[0],
        duration_s=clock.monotonic() - began[1],
        reading=reading,
        attempts=attempts,
        server=redis_client.name(config.redis),
        host=os.uname().nodename,
    )


def record(config: Config, journal: Journal, outcome: Outcome) -> None:
    """The event, its row and its alert or recovery, all in one transaction. Raises JournalError."""
    now = clock.now()
    with journal.transaction():
        before = journal.incident(KIND, outcome.check)
        incident, kind = _advance(config, before, outcome, now)
        deliveries = payloads(config, outcome, incident or before, kind, now)
        detail = config.redact(summary(outcome, "en"))
        more = {"reads": outcome.reads, "attempts": len(outcome.attempts), **particulars(outcome), "host": outcome.host}
        journal.append(Event(outcome.run_id, now, KIND, outcome.check, outcome.status, detail, more), deliveries)
        journal.set_incident(KIND, outcome.check, incident)
        journal.prune(now)


def _advance(
    config: Config, before: Incident | None, outcome: Outcome, now: datetime
) -> tuple[Incident | None, Notice]:
    return advance(
        before,
        ok=outcome.ok,
        now=now,
        repeat_interval_s=config.wecom.repeat_interval if config.wecom else 0,
        can_notify=bool(config.alert_channels),
        fresh=Incident(outcome.run_id[:8], outcome.started_at, 0, 0, None),
    )


def payloads(
    config: Config, outcome: Outcome, incident: Incident | None, kind: Notice, now: datetime
) -> list[tuple[str, Any]]:
    """What has to reach which destination."""
    language: Language = config.wecom.language if config.wecom else "zh"
    local = clock.local(now)
    found: list[tuple[str, Any]] = []
    if config.mysql is not None:
        line = row(outcome, language=language, log_path=_log_path(config), at=local)
        found.append(("mysql", line._replace(detail=config.redact(line.detail))._asdict()))
    if config.ping is not None:
        signal = ping.SUCCESS if outcome.ok else ping.FAIL
        text = config.redact(summary(outcome, language))
        found.append(("ping", ping.payload(ping.check_job(outcome.check), signal, rid=outcome.run_id, text=text)))
    if kind is not Notice.NONE and incident is not None:
        text = config.redact(notice(outcome, incident, kind, language=language, at=local))
        message = {"text": text, "mention": kind is not Notice.RECOVERED}
        found += [(channel, message) for channel in config.alert_channels]
    return found


def _log_path(config: Config) -> str:
    """Where a reader of the row finds more: the job's log under cron, else the journal."""
    if config.timer is not None and config.timer.log_dir is not None:
        return str(config.timer.log_dir / "get_redis_data.log")
    return str(config.state_dir / "journal.db")


def particulars(outcome: Outcome) -> dict[str, Any]:
    """What the journal and --json hold beside the summary."""
    reading = outcome.reading
    return {
        "bad": [{"key": bad.key, "reason": reason(bad, "en")} for bad in reading.bad],
        "bad_total": reading.bad_total,
        "error": reading.trouble.code if reading.trouble else None,
        "keys": reading.keys,
        "recoveries": [attempt._asdict() | {"ok": attempt.ok} for attempt in outcome.attempts],
        "duration_ms": round(outcome.duration_s * 1000),
        "server": outcome.server,
    }


def _deliver(config: Config, outcome: Outcome, down: set[str], say: Say) -> Result:
    """Try everything that is pending, and tell what became of this outcome's part."""
    error = None
    try:
        tallies = delivery.deliver(config, delivery.Which.PENDING, skip=down)
        down |= {tally.destination for tally in tallies if tally.pending or tally.blocked}
        _say_all(delivery.lines(tallies), say)
        with Journal.open(config.state_dir) as journal:
            event = journal.event(outcome.run_id)
    except JournalError as trouble:  # the outcome is safe; only its delivery cannot be marked
        event, error = None, str(trouble)
    return Result(outcome, event["delivered"] if event else {}, error)


def _unrecorded(config: Config, outcome: Outcome, why: str, say: Say) -> Result:
    """Without a journal: send the row and an alert at once. Each run alerts, since none can know of the one before."""
    now = clock.now()
    incident = Incident(outcome.run_id[:8], now, 1, 1, now)
    language: Language = config.wecom.language if config.wecom else "zh"
    sent = [
        (
            destination,
            payload | {"text": unrecorded(payload["text"], why, outcome, language)}
            if "mention" in payload
            else payload,
        )
        for destination, payload in payloads(config, outcome, incident, Notice.FIRST, now)
    ]
    tallies = delivery.deliver_directly(config, sent)
    _say_all((line for tally in tallies for line in tally.said), say)
    return Result(outcome, {tally.destination: tally.delivered > 0 for tally in tallies}, why)


def _say_all(lines: Iterable[str], say: Say) -> None:
    for line in lines:
        say(line)
