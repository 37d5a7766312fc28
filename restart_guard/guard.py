"""A command over many targets: side by side, so that a slow one delays no other; what happened goes to the journal."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue

from restart_guard import clock, process, target, target_events
from restart_guard.backoff import DELIVERY_CAP_S, is_due
from restart_guard.beside import beside
from restart_guard.config import picked
from restart_guard.errors import DeliveryError, ExitCode, JournalError
from restart_guard.guarded import Guarded, Seen, Stop, guarded
from restart_guard.journal import Journal
from restart_guard.lifecycle import Command, State
from restart_guard.observe import in_group, observe
from restart_guard.settings import Config
from restart_guard.target import Done, How

_BY_HAND_WAIT_S = 10.0
PING_ERROR = "ping.error"
"""The journal's fact about why the monitor was not reached the last time."""

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


def chosen(config: Config, names: Sequence[str]) -> list[Guarded]:
    """The named targets, or all. Raises UsageError for a name that the config does not have."""
    chosen_names = picked(config.targets, names, what="target", path=config.path)
    return [guarded(config, name) for name in chosen_names]


def run(config: Config, targets: Sequence[Guarded], command: Command, stop: Stop | None = None) -> Iterator[Done]:
    """Do a command by hand for each target, waiting a while for whoever acts on one. Raises JournalError at the end."""
    process.prepare()
    gentle = Stop(timeout_s=0, force=True) if command is Command.KILL else Stop()
    how = How(stop or gentle, wait_s=_BY_HAND_WAIT_S)
    yield from _side_by_side(config, [partial(target.act, one, command, how) for one in targets])


def tick(config: Config, targets: Sequence[Guarded]) -> Iterator[Done]:
    """What cron does each minute: relaunch what is dead, restart what hangs, deliver what is due.

    Targets that are well are seen by their record, without a lock or a search; a pid lock that is not there is no
    business of ours. Raises JournalError at the end.
    """
    process.prepare()
    # Loaded only for it: an idle tick without a monitor must not pay for an HTTP client.
    start = importlib.import_module("restart_guard.ping").Start(config.ping, "tick") if config.ping else None
    seen = observe(targets, search_stopped=False)
    jobs: list[Callable[[], Done | None]] = [
        partial(target.act, one, Command.TICK) for one in targets if needs_care(one, seen[one.name])
    ]
    if any(one.settings.health is not None for one in targets):
        # Loaded only now: an idle tick without probes must not pay for an HTTP client.
        health = importlib.import_module("restart_guard.health")
        jobs += [partial(health.look_after, one, seen[one.name]) for one in targets if one.settings.health]
    well = True
    for done in _side_by_side(config, jobs):
        well = well and done.ok
        yield done
    yield from keep_house(config, targets)
    if start is not None:
        error = start.wait()
        if error is None:
            tell_monitor(config, rid=start.rid, well=well)
        else:
            # Who has not answered the start would only be waited for once more.
            with Journal.open(config.state_dir) as journal:
                journal.remember(PING_ERROR, config.redact(error))


def tell_monitor(config: Config, *, rid: str = "", well: bool = True) -> None:
    """Ping that the tick is alive, or that it or an alert has failed. Not to reach the monitor is no failure of the
    tick, and the next one pings anyway; ``doctor`` tells of it. Raises JournalError."""
    if config.ping is None:
        return
    ping = importlib.import_module("restart_guard.ping")
    with Journal.open(config.state_dir) as journal:
        waiting = journal.alerts_waiting()
        signal, text = (
            (ping.SUCCESS, "") if well else (str(int(ExitCode.FAILED)), "A target could not be brought back.")
        )
        if waiting:
            about = ", ".join(f"{kind} {subject}" for _, kind, subject in waiting)
            signal, text = ping.FAIL, f"Alerts could not be delivered: {about}."
        try:
            ping.send(config.ping, ping.payload(ping.TICK, signal, rid=rid, text=text))
        except DeliveryError as error:
            journal.remember(PING_ERROR, config.redact(str(error)))
        else:
            journal.remember(PING_ERROR, "")


def keep_house(config: Config, targets: Sequence[Guarded]) -> list[Done]:
    """The heartbeat row, the end of incidents, and deliveries that are due. Raises JournalError."""
    with Journal.open(config.state_dir) as journal:
        with journal.transaction():
            journal.remember("tick", clock.stamp(clock.now()))
            settled = target_events.settle(config, journal, targets)
        now = clock.now()
        # What is blocked counts too: whether its config has changed, the delivery finds out.
        due = any(is_due(item.next_try, now, cap_s=DELIVERY_CAP_S) for item in journal.undelivered())
    if due:
        # Loaded only now: an idle tick must not pay for pymysql and requests.
        delivery = importlib.import_module("restart_guard.delivery")
        delivery.deliver(config, delivery.Which.DUE)
    return settled


def needs_care(one: Guarded, seen: Seen) -> bool:
    """Whether a tick has anything to do or to repair."""
    if seen.who is None and not one.may_run:
        return False
    if seen.state is State.RUNNING and seen.who is not None:
        wrong = one.lock.read() != seen.who.pid or seen.record.who != seen.who
        return wrong or seen.record.starting or target.is_settled(one, seen)
    return seen.state not in (State.STOPPED, State.UNGUARDED, State.BACKOFF)


def _side_by_side(config: Config, jobs: Sequence[Callable[[], Done | None]]) -> Iterator[Done]:
    """Do all at once; yield each result as it comes, then journal what happened."""
    happened: list[Done] = []
    finished: SimpleQueue[Done | BaseException | None] = SimpleQueue()

    for job in jobs:
        beside(job, finished.put)
    for _ in jobs:
        done = finished.get()
        if isinstance(done, BaseException):
            raise done
        if done is None:
            continue
        if done.event is not None:
            happened.append(done)
        yield done
    target_events.record(config, happened)


def status(config: Config, targets: Sequence[Guarded]) -> list[tuple[Guarded, Seen, int]]:
    """Every target as it is now, with how often it was relaunched, as far as the journal can be read."""
    seen = observe(targets, search_stopped=True)
    restarts: dict[str, int] = {}
    with suppress(JournalError):
        journal = Journal.open_to_read(config.state_dir)
        restarts = journal.relaunches() if journal is not None else {}
    return [(one, in_group(config, one, seen[one.name]), restarts.get(one.name, 0)) for one in targets]


def lsb_code(states: Sequence[State]) -> int:
    """The exit code of status: that of the worst state."""
    worst = next((state for state in _WORST_FIRST if state in states), State.RUNNING)
    return _LSB[worst]
