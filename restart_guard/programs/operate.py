"""A command by hand on many targets: side by side, so that a slow one delays no other."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue

from restart_guard.config.load import picked
from restart_guard.config.options import Config
from restart_guard.errors import JournalError
from restart_guard.journal import acks
from restart_guard.journal.journal import Journal
from restart_guard.programs import events, processes
from restart_guard.programs.lifecycle import Command, State
from restart_guard.programs.observe import observe
from restart_guard.programs.results import ActionOptions, ActionResult
from restart_guard.programs.target import Observation, StopOptions, Target, target_of
from restart_guard.threads import in_background

_BY_HAND_WAIT_S = 10.0

# The init-script standard of the Linux Standard Base, section "Init Script Actions".
_LSB = {
    State.RUNNING: 0,
    State.UNGUARDED: 0,
    State.DEAD: 1,
    State.BACKOFF: 1,
    State.STOPPED: 3,
    State.UNKNOWN: 4,
}

_WORST_FIRST = (State.UNKNOWN, State.DEAD, State.BACKOFF, State.STOPPED)


def chosen(config: Config, names: Sequence[str]) -> list[Target]:
    """The named targets, or all. Raises UsageError for a name that the config does not have."""
    chosen_names = picked(config.targets, names, what="target", path=config.path)
    return [target_of(config, name) for name in chosen_names]


def run(
    config: Config, targets: Sequence[Target], command: Command, stop: StopOptions | None = None
) -> Iterator[ActionResult]:
    """Do a command by hand for each target, waiting a while for another process that acts on it.

    Raises JournalError at the end.
    """
    # An idle tick needs run_all only.
    from restart_guard.programs.actions import act

    processes.prepare()
    gentle = StopOptions(timeout_s=0, force=True) if command is Command.KILL else StopOptions()
    options = ActionOptions(stop or gentle, wait_s=_BY_HAND_WAIT_S)
    yield from run_all(config, [partial(act, target, command, options) for target in targets], targets)


def run_all(
    config: Config, jobs: Sequence[Callable[[], ActionResult | None]], changed: Sequence[Target] = ()
) -> Iterator[ActionResult]:
    """Run all jobs at once; yield each result as it comes, then record the events, and how the targets are that may be
    changed."""
    happened: list[ActionResult] = []
    finished: SimpleQueue[ActionResult | BaseException | None] = SimpleQueue()

    for job in jobs:
        in_background(job, finished.put)
    for _ in jobs:
        result = finished.get()
        if isinstance(result, BaseException):
            raise result
        if result is None:
            continue
        if result.event is not None:
            happened.append(result)
        yield result
    events.record(config, happened, changed)


def status(config: Config, targets: Sequence[Target]) -> list[tuple[Target, Observation, int]]:
    """Every target's observation, and its number of relaunches if the journal can be read."""
    observed = observe(targets, search_stopped=True, search_strangers=True)
    restarts: dict[str, int] = {}
    with suppress(JournalError):
        journal = Journal.open_to_read(config.state_dir)
        known = acks.current(journal) if journal is not None else {}
        for (kind, name), ack in known.items():
            if kind == events.KIND and name in observed:
                why = "; ".join(part for part in (observed[name].why, ack.text) if part)
                observed[name] = observed[name]._replace(why=why)
        totals = journal.totals(events.KIND) if journal is not None else {}
        restarts = {name: total.relaunches for name, total in totals.items()}
    return [(target, observed[target.name], restarts.get(target.name, 0)) for target in targets]


def lsb_code(states: Sequence[State]) -> int:
    """The exit code of status: that of the worst state."""
    worst = next((state for state in _WORST_FIRST if state in states), State.RUNNING)
    return _LSB[worst]
