"""Everything at a glance, worst first: a line for each thing that is not well, and one for the rest of its kind."""

import shlex
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from restart_guard.counts import counted
from restart_guard.durations import span
from restart_guard.journal import spans
from restart_guard.reports.summary import JobState, Summary, TargetState

FAIL, WARN, OK = "fail", "warn", "ok"
_ORDER = (FAIL, WARN, OK)
_TICK_LATE_S = 120.0


class Line(NamedTuple):
    """``at`` is the moment that the text speaks of, ``then`` what comes after that. ``next`` are the words of the
    command to type, without our own name."""

    level: str
    what: str
    text: str
    at: datetime | None = None
    next: tuple[str, ...] = ()
    then: str = ""

    def told(self, now: datetime) -> str:
        """The text for a person."""
        at = "" if self.at is None else f" ({ago(self.at, now)})"
        return f"{self.text}{at}{self.then}"

    def shown(self, config_path: Path | None) -> dict[str, Any]:
        """The object of ``restart-guard --json``."""
        at = None if self.at is None else self.at.astimezone().isoformat(timespec="seconds")
        return {
            "level": self.level,
            "what": self.what,
            "text": self.text + self.then,
            "at": at,
            "next": self.command(config_path),
        }

    def command(self, config_path: Path | None) -> str | None:
        """What to type; with the config if that was named."""
        if not self.next:
            return None
        config = ("-c", str(config_path)) if config_path is not None else ()
        return shlex.join(["restart-guard", *config, *self.next])


def lines(state: Summary) -> list[Line]:
    """Worst first, else in the order programs, checks, refreshes, deliveries, timer, group."""
    found = [*_programs(state), *_jobs(state), *_deliveries(state), *_timer(state), *_group(state)]
    found = [_acknowledged(line, state) for line in found]
    return sorted(found, key=lambda line: _ORDER.index(line.level))


def _acknowledged(line: Line, state: Summary) -> Line:
    """What somebody knows about is no longer the worst."""
    kind, _, subject = line.what.partition(" ")
    ack = state.acks.get((kind, subject)) or state.acks.get(("target", line.what))
    return line if ack is None or line.level == OK else line._replace(level=WARN, then=f"{line.then}; {ack.text}")


def ago(moment: datetime, now: datetime) -> str:
    """As people say it: ``3 min ago``, ``in 2 d``."""
    seconds = (now - moment).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= length:
            number = int(abs(seconds) // length)
            return f"{number} {unit} ago" if seconds > 0 else f"in {number} {unit}"
    return "just now" if seconds >= 0 else "in a moment"


def _programs(state: Summary) -> Iterator[Line]:
    well = 0
    for target in state.targets:
        line = _program(target, state.now)
        if line is None:
            well += 1
        else:
            yield line
    if well:
        yield Line(OK, "programs", f"{well} fine", None, ("status",))
    elif not state.targets:
        yield Line(OK, "programs", "none in the config")


def _program(target: TargetState, now: datetime) -> Line | None:
    look = ("history", "--target", target.name)
    why = f": {target.why}" if target.why else ""
    if target.state in spans.DOWN:
        again = "" if target.next_try_s is None else f", next try in {span(target.next_try_s)}"
        return Line(FAIL, target.name, f"{target.state}{again}{why}", target.since, look)
    if target.state == "unknown":
        return Line(FAIL, target.name, f"unknown{why}", target.since, ("doctor",))
    if target.incident is not None:
        text = f"keeps dying: {counted(target.totals.relaunches, 'relaunch', 'relaunches')} so far"
        look = ("history", "--incident", target.incident.id)
        return Line(FAIL, target.name, text, target.incident.opened_at, look)
    if target.state == "unguarded":
        return Line(WARN, target.name, f"runs, but is not guarded{why}", target.started, ("start", target.name))
    if target.state == "stopped":
        return Line(OK, target.name, "stopped", target.since, ("start", target.name))
    died = target.last_death
    if died is not None and (now - died.at).total_seconds() < 3600:
        return Line(WARN, target.name, f"runs again; {died.detail}", died.at, look)
    return None


def _jobs(state: Summary) -> Iterator[Line]:
    for job in state.jobs:
        what, last = f"{job.kind} {job.name}", job.last
        run = ("check-redis", job.name) if job.kind == "check" else ("refresh", job.name)
        later = "" if job.next_run is None else f"; next {ago(job.next_run, state.now)}"
        if last is not None and last.status != "success":
            look = ("history", "--incident", job.incident.id) if job.incident is not None else run
            yield Line(FAIL, what, last.detail, last.at, look, later)
        elif job.has_missed:
            ran = "has never run" if last is None else "last run"
            yield Line(FAIL, what, f"missed its last time; {ran}", None if last is None else last.at, run, later)
        elif last is None:
            yield Line(WARN if job.next_run is not None else OK, what, "has never run", None, run, later)
        else:
            yield Line(OK, what, "good", last.at, _history(job), later)


def _history(job: JobState) -> tuple[str, ...]:
    return ("history", "--check", job.name) if job.kind == "check" else ("history",)


def _deliveries(state: Summary) -> Iterator[Line]:
    for name, waiting in state.waiting.items():
        level = FAIL if waiting.blocked else WARN
        number = counted(waiting.pending + waiting.blocked, "delivery", "deliveries")
        why = f": {waiting.error}" if waiting.error else ""
        text = f"{number} {'blocked' if waiting.blocked else 'waiting'}{why}"
        yield Line(level, f"to {name}", text, waiting.oldest, ("deliver", "--all") if waiting.blocked else ("deliver",))
    if not state.waiting:
        yield Line(OK, "deliveries", "none waiting")


def _timer(state: Summary) -> Iterator[Line]:
    if state.last_tick is None or state.next_tick is None:
        yield Line(WARN, "timer", "no tick has ever run", None, ("install-timer",))
    elif (state.now - state.next_tick).total_seconds() > _TICK_LATE_S:
        yield Line(FAIL, "timer", "ticks have stopped; the last was", state.last_tick, ("doctor",))
    else:
        yield Line(OK, "timer", "last tick", state.last_tick)


def _group(state: Summary) -> Iterator[Line]:
    if state.group is not None:
        yield Line(OK, "group", state.group, None, ("standby", "--status"))
