"""All that is known about a config's programs and jobs at one moment, from the journal and the process table only: no
server is asked."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from restart_guard import clock
from restart_guard.config.options import Config
from restart_guard.errors import ConfigError
from restart_guard.host import process_table
from restart_guard.journal import spans
from restart_guard.journal.acks import Ack, current
from restart_guard.journal.due import has_missed, scheduled
from restart_guard.journal.incident import Incident
from restart_guard.journal.journal import Event, Journal, Totals, Wanted
from restart_guard.journal.spans import Span
from restart_guard.programs import events
from restart_guard.programs.observe import observe
from restart_guard.programs.target import Observation, Target, target_of
from restart_guard.timer.schedule import next_slot, tick_schedule


class TargetState(NamedTuple):
    """A program: how it is, since when it has been so, and its past. ``state`` is as in a span (``journal/spans.py``).
    ``since`` is None where nobody looked."""

    name: str
    state: str
    why: str
    pid: int | None
    started: datetime | None
    since: datetime | None
    next_try_s: float | None
    totals: Totals
    spans: Sequence[Span]
    last_death: Event | None
    incident: Incident | None


class JobState(NamedTuple):
    """A check or a refresh: its last outcomes, oldest first, and when it runs next; ``has_missed`` its last time."""

    kind: str
    name: str
    outcomes: Sequence[Event]
    next_run: datetime | None
    has_missed: bool
    incident: Incident | None

    @property
    def last(self) -> Event | None:
        return self.outcomes[-1] if self.outcomes else None

    @property
    def last_success(self) -> Event | None:
        return next((one for one in reversed(self.outcomes) if one.status == "success"), None)


class Waiting(NamedTuple):
    """What a destination has not got yet."""

    pending: int
    blocked: int
    oldest: datetime
    error: str | None


class Summary(NamedTuple):
    """``last_tick`` is None if there never was one, ``next_tick`` when the next one is due after it. ``group`` is the
    part of this host in its group, as a text, None if it is in none."""

    now: datetime
    host: str
    targets: Sequence[TargetState]
    jobs: Sequence[JobState]
    waiting: Mapping[str, Waiting]
    last_tick: datetime | None
    next_tick: datetime | None
    group: str | None
    leads: bool
    acks: Mapping[tuple[str, str], Ack] = {}


def summary(config: Config, journal: Journal | None, *, outcomes: int = 1) -> Summary:
    """Without a journal only the programs are known. ``outcomes`` is how many of each job are wanted. Raises
    JournalError, ConfigError."""
    targets = [target_of(config, name) for name in config.targets]
    observed = observe(targets, search_stopped=False)
    last_tick = _moment(journal.recall("tick")) if journal is not None else None
    group, leads = _group(config)
    return Summary(
        clock.now(),
        os.uname().nodename,
        _targets(journal, targets, observed),
        [] if journal is None else _jobs(config, journal, outcomes),
        {} if journal is None else _waiting(journal),
        last_tick,
        None if last_tick is None else next_slot(tick_schedule(config), now=last_tick),
        group,
        leads,
        {} if journal is None else current(journal),
    )


def _targets(
    journal: Journal | None, targets: Sequence[Target], observed: Mapping[str, Observation]
) -> list[TargetState]:
    states = events.states(targets, observed)
    totals = {} if journal is None else journal.totals(events.KIND)
    past = {} if journal is None else spans.read(journal, events.KIND)
    deaths = {} if journal is None else journal.last_deaths()
    incidents = {} if journal is None else journal.incidents(events.KIND)
    found, now = [], clock.now()
    for target in targets:
        name, seen = target.name, observed[target.name]
        up_s = None if seen.process is None else process_table.uptime_s(seen.process)
        # In whole seconds: the two clocks are not read at once, and nobody must take the difference for a restart.
        started = None if up_s is None else (now - timedelta(seconds=up_s)).replace(microsecond=0)
        mine = past.get(name, [])
        newest = mine[-1] if mine and mine[-1].state == states[name] else None
        since = None if newest is None else datetime.fromtimestamp(newest.since, UTC)
        found.append(
            TargetState(
                *(name, states[name], seen.why, seen.process.pid if seen.process is not None else None, started, since),
                *(seen.next_try_s, totals.get(name, Totals()), mine, deaths.get(name), incidents.get(name)),
            )
        )
    return found


def _jobs(config: Config, journal: Journal, outcomes: int) -> list[JobState]:
    now = clock.now()
    planned = {(job.kind, job.subject): job for job in scheduled(config)}
    found = []
    for kind, names in (("check", config.checks), ("refresh", config.refreshes)):
        incidents = journal.incidents(kind)
        for name in names:
            job = planned.get((kind, name))
            with suppress(ConfigError):  # a schedule that never comes
                missed = job is not None and has_missed(journal, job, only_look=True, now=now)
                found.append(
                    JobState(
                        *(kind, name, journal.outcomes(Wanted(kind=kind, subject=name), limit=outcomes)),
                        next_slot(job.schedule, now=now) if job is not None else None,
                        missed,
                        incidents.get(name),
                    )
                )
    return found


def _waiting(journal: Journal) -> dict[str, Waiting]:
    found = {}
    for name in journal.open_destinations():
        states = journal.open_states(name)
        state = "blocked" if states.get("blocked") else "pending"
        found[name] = Waiting(
            *(states.get("pending", 0), states.get("blocked", 0), journal.oldest_open(name)),
            journal.why_waiting(name, state),
        )
    return found


def _group(config: Config) -> tuple[str | None, bool]:
    if config.standby is None:
        return None, False
    # Most hosts are in no group.
    from restart_guard.standby.memory import here

    text = here(config)
    return f"this host {text}", text.startswith("leads")


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def field(event: Event | None, name: str) -> Any:
    """A particular of an event; None if it has none."""
    return None if event is None else event.data.get(name)
