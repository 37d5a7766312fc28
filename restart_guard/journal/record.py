"""Records a job's outcome: the event, its row, its ping and its alert in one transaction, then their delivery.

Nothing is delivered that is not in the journal first, with one exception: if the journal cannot be written, the alert
must still go out, so the outcome then goes to its destinations directly and the run fails.
"""

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, Protocol

from restart_guard import clock
from restart_guard.alerts import ping
from restart_guard.alerts.wording import Language, unrecorded
from restart_guard.config.options import Config
from restart_guard.errors import JournalError
from restart_guard.host import permit
from restart_guard.journal import acks, delivery, events, mutes
from restart_guard.journal.incident import Incident, Notice, advance
from restart_guard.journal.journal import Journal
from restart_guard.mysql.table import Row

Say = Callable[[str], None]
"""Takes a diagnostic line while a job runs."""


class JobOutcome(Protocol):
    """The part of an outcome that all kinds of jobs share."""

    @property
    def run_id(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def started_at(self) -> datetime: ...
    @property
    def host(self) -> str: ...


class Formatter(Protocol):
    """A module that makes the texts about an outcome of its kind."""

    def summary(self, outcome: Any, language: Language, /) -> str: ...
    def subject(self, outcome: Any, language: Language, /) -> str: ...
    def row(self, outcome: Any, /, *, language: Language, log_path: str, at: datetime) -> Row: ...
    def notice(self, outcome: Any, incident: Incident, kind: Notice, /, *, language: Language, at: datetime) -> str: ...


class JournalEntry(NamedTuple):
    """An outcome to record and deliver. ``data`` is for the journal; ``log`` is the job's log file under cron."""

    kind: str
    name: str
    outcome: JobOutcome
    words: Formatter
    data: Mapping[str, Any]
    log: str


class Recorded(NamedTuple):
    """Which destinations have the outcome; ``journal_error`` says why it is not in the journal."""

    delivered: dict[str, bool]
    journal_error: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether it is in the journal, and its row and alert have arrived. A monitor that is away fails no job."""
        arrived = (is_there for destination, is_there in self.delivered.items() if destination != delivery.PING)
        return self.journal_error is None and all(arrived)


def start_ping(config: Config, kind: str, name: str, run_id: str) -> ping.Start | None:
    """Tell the monitor, if there is one, that a job begins."""
    return ping.Start(config.ping, ping.job_name(kind, name), run_id) if config.ping is not None else None


def finish(config: Config, entry: JournalEntry, down: set[str], say: Say) -> Recorded:
    """Record an outcome and deliver it. A destination that fails joins ``down`` and is not tried again in this run, so
    that it costs a run its time only once."""
    try:
        with Journal.open(config.state_dir) as journal:
            _keep(config, journal, entry)
    except JournalError as error:
        return _unrecorded(config, entry, str(error), say)
    return _deliver(config, entry, down, say)


def _keep(config: Config, journal: Journal, entry: JournalEntry) -> None:
    """The event, its row, its ping and its alert or recovery, all in one transaction. Raises JournalError."""
    now, outcome = clock.now(), entry.outcome
    with journal.transaction():
        before = journal.incident(entry.kind, entry.name)
        is_known = (entry.kind, entry.name) in acks.current(journal)
        incident, kind = _advance(config, before, entry, now, is_known=is_known)
        events.append(
            config,
            journal,
            (entry.kind, entry.name),
            ok=outcome.ok,
            detail=entry.words.summary(outcome, "en"),
            run_id=outcome.run_id,
            at=now,
            data={**entry.data, "host": outcome.host},
            deliveries=_payloads(config, entry, incident or before, kind, now),
        )
        journal.set_incident(entry.kind, entry.name, incident)
        journal.prune(now)


def _advance(
    config: Config, before: Incident | None, entry: JournalEntry, now: datetime, *, is_known: bool
) -> tuple[Incident | None, Notice]:
    interval_s = config.wecom.repeat_interval if config.wecom else 0.0
    return advance(
        before,
        ok=entry.outcome.ok,
        now=now,
        repeat_interval_s=math.inf if is_known else interval_s,
        can_notify=bool(config.alert_channels),
        fresh=Incident(entry.outcome.run_id[:8], entry.outcome.started_at, 0, 0, None),
    )


def _payloads(
    config: Config, entry: JournalEntry, incident: Incident | None, kind: Notice, now: datetime
) -> list[events.Delivery]:
    """The payload for each destination."""
    language = config.language
    local = clock.local(now)
    payloads: list[events.Delivery] = []
    if config.mysql is not None:
        line = entry.words.row(entry.outcome, language=language, log_path=_log_path(config, entry), at=local)
        allowed = permit.read(config.permit)
        token = allowed.token if allowed.holds() else None
        payloads.append(("mysql", line._replace(detail=config.redact(line.detail), fencing_token=token)._asdict()))
    if config.ping is not None:
        signal = ping.SUCCESS if entry.outcome.ok else ping.FAIL
        text = config.redact(entry.words.summary(entry.outcome, language))
        job = ping.job_name(entry.kind, entry.name)
        payloads.append((delivery.PING, ping.payload(job, signal, rid=entry.outcome.run_id, text=text)))
    if kind is not Notice.NONE and incident is not None:
        is_over = kind is Notice.RECOVERED
        words = partial(_notice, entry, incident, kind, local)
        subject = (entry.kind, entry.name)
        payloads += events.messages(
            config, subject, words, mention=not is_over, incident=incident.id, recovered=is_over
        )
    return payloads


def _notice(entry: JournalEntry, incident: Incident, kind: Notice, at: datetime, language: Language) -> str:
    return entry.words.notice(entry.outcome, incident, kind, language=language, at=at)


def _log_path(config: Config, entry: JournalEntry) -> str:
    """The place where a reader of the row finds more: the job's log under cron, else the journal."""
    if config.timer is not None and config.timer.log_dir is not None:
        return str(config.timer.log_dir / entry.log)
    return str(config.state_dir / "journal.db")


def _deliver(config: Config, entry: JournalEntry, down: set[str], say: Say) -> Recorded:
    """Try everything that is pending, and report on this outcome's part."""
    try:
        tallies = delivery.deliver(config, delivery.Which.PENDING, skip=down)
        down |= {tally.destination for tally in tallies if tally.pending or tally.blocked}
        for line in delivery.lines(tallies):
            say(line)
        with Journal.open(config.state_dir) as journal:
            event = journal.event(entry.outcome.run_id)
    except JournalError as trouble:  # the outcome is safe; only its delivery cannot be marked
        return Recorded({}, str(trouble))
    return Recorded({} if event is None else event["delivered"] | _not_meant_to_arrive(config, event))


def _not_meant_to_arrive(config: Config, event: Mapping[str, Any]) -> dict[str, bool]:
    """What waits on purpose is nothing that failed: a fallback, and what is muted."""
    waiting = [one for one in event["deliveries"] if one["state"] == "pending"]
    return {
        one["destination"]: True
        for one in waiting
        if one["error"] == mutes.HELD
        or (one["destination"] in config.alerts and config.alerts[one["destination"]].common.fallback_for is not None)
    }


def _unrecorded(config: Config, entry: JournalEntry, why: str, say: Say) -> Recorded:
    """Without a journal: send the row and an alert at once. Each run alerts, since none can know of the one before."""
    now = clock.now()
    language = config.language
    incident = Incident(entry.outcome.run_id[:8], now, 1, 1, now)
    sent = []
    for destination, payload in _payloads(config, entry, incident, Notice.FIRST, now):
        if "mention" in payload:
            good = entry.words.subject(entry.outcome, language) if entry.outcome.ok else None
            text = unrecorded(payload["text"], why, good_subject=good, host=entry.outcome.host, language=language)
            sent.append((destination, payload | {"text": text}))
        else:
            sent.append((destination, payload))
    tallies = delivery.deliver_directly(config, sent)
    for tally in tallies:
        for line in tally.said:
            say(line)
    return Recorded({tally.destination: tally.delivered > 0 for tally in tallies}, why)
