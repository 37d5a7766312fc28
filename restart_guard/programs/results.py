"""What is asked of an action on a target, what comes of it, and how a target is shown. An idle tick needs no more."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from restart_guard.durations import span
from restart_guard.host import process_table
from restart_guard.host.family import Ending
from restart_guard.host.identity import Identity
from restart_guard.programs import health
from restart_guard.programs.crashes import Crashes, Death
from restart_guard.programs.target import Observation, StopOptions, Target

if TYPE_CHECKING:
    from subprocess import Popen


FAILED = "failed to start: "
"""So the event of a launch begins that did not come up."""

KILLED = "killed"
"""The event of a kill by hand."""


class ActionResult(NamedTuple):
    """The result of an action on a target. ``event`` is the text for the journal, None if nothing happened.

    ``crashes`` counts the relaunches in a row, this one included, 0 if it is none; ``child`` is the process if it was
    launched here. ``is_stuck``: a tick can do nothing about it, and neither can the next one. ``death``: what it is a
    relaunch after. ``at``: when, in seconds since 1970, if it is recorded later.
    """

    name: str
    ok: bool
    text: str
    event: str | None = None
    busy: bool = False
    crashes: int = 0
    process: Identity | None = None
    child: "Popen[bytes] | None" = None
    is_stuck: bool = False
    death: Death | None = None
    at: float = 0.0


class ActionOptions(NamedTuple):
    """Options of an action: how to stop, how long to wait for the lock, the reason to report, whether to wait until a
    launched program has stayed up, and how the program has just ended."""

    stop: StopOptions = StopOptions()
    wait_s: float = 0.0
    why: str = ""
    settle: bool = True
    ending: Ending | None = None


def longest_s(target: Target) -> float:
    """How long an action on it may take."""
    settings = target.settings
    before = settings.pre_stop_timeout if settings.pre_stop is not None else 0.0
    return before + settings.stop_timeout + settings.start_timeout + settings.min_uptime


def held_up(busy: ActionResult, for_s: float) -> ActionResult:
    """The news that somebody else has been acting on a target for longer than that may take."""
    text = f"{busy.text.partition(';')[0]}, for {span(for_s)} already: it is not looked after."
    return ActionResult(busy.name, ok=False, text=text, event=text, is_stuck=True)


def is_settled(target: Target, observed: Observation) -> bool:
    """Whether it has run long enough to clear its crash count."""
    return observed.record.crashes != Crashes() and is_well(target, observed)


def is_well(target: Target, observed: Observation) -> bool:
    """Whether it has run long enough and, if it has a health check, passed it."""
    if (
        observed.process is None
        or process_table.uptime_s(observed.process) < target.settings.restart_backoff.reset_after
    ):
        return False
    return target.settings.health is None or health.is_good(observed.record.health, observed.process.started)


def shown(target: Target, observed: Observation, restarts: int) -> Mapping[str, Any]:
    """The object of ``status --json``."""
    return {
        "target": target.name,
        "state": observed.state.value,
        "pid": observed.process.pid if observed.process else None,
        "uptime_s": round(process_table.uptime_s(observed.process), 1) if observed.process else None,
        "pid_lock": str(target.lock.path) if target.lock.is_there() else None,
        "restarts": restarts,
        "next_try_s": round(observed.next_try_s, 1) if observed.next_try_s is not None else None,
        "why": observed.why,
    }
