"""A command over many targets: side by side, so that a slow one delays no other; what happened goes to the journal."""

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Thread

from restart_guard import clock, process, target
from restart_guard.backoff import DELIVERY_CAP_S, is_due
from restart_guard.config import picked
from restart_guard.journal import Event, Journal, new_run_id
from restart_guard.lifecycle import Command, State
from restart_guard.settings import Config
from restart_guard.target import Done, Guarded, Seen, Stop

KIND = "target"
_BY_HAND_WAIT_S = 10.0

# The init-script standard of the Linux Standard Base, section "Init Script Actions".
_LSB = {State.RUNNING: 0, State.UNGUARDED: 0, State.DEAD: 1, State.STOPPED: 3, State.UNKNOWN: 4}
_WORST_FIRST = (State.UNKNOWN, State.DEAD, State.STOPPED)


def chosen(config: Config, names: Sequence[str]) -> list[Guarded]:
    """The named targets, or all. Raises UsageError for a name that the config does not have."""
    chosen_names = picked(config.targets, names, what="target", path=config.path)
    return [target.guarded(name, config.targets[name]) for name in chosen_names]


def run(config: Config, targets: Sequence[Guarded], command: Command, stop: Stop | None = None) -> Iterator[Done]:
    """Do a command by hand for each target, waiting a while for whoever acts on one. Raises JournalError at the end."""
    process.prepare_signals()
    yield from _side_by_side(config, targets, lambda one: target.act(one, command, stop=stop, wait_s=_BY_HAND_WAIT_S))


def tick(config: Config, targets: Sequence[Guarded]) -> Iterator[Done]:
    """What cron does each minute: relaunch what is dead, deliver what is due. Raises JournalError at the end.

    Targets that are well are seen by their record, without a lock or a search; a pid lock that is not there is no
    business of ours.
    """
    process.prepare_signals()
    seen = target.observe(targets, search_stopped=False)
    suspects = [one for one in targets if not _is_well(one, seen[one.name])]
    yield from _side_by_side(config, suspects, lambda one: target.act(one, Command.TICK))
    with Journal.open(config.state_dir) as journal:
        with journal.transaction():
            journal.remember("tick", clock.stamp(clock.now()))
        now = clock.now()
        # What is blocked counts too: whether its config has changed, the delivery finds out.
        due = any(is_due(item.next_try, now, cap_s=DELIVERY_CAP_S) for item in journal.undelivered())
    if due:
        # Loaded only now: an idle tick must not pay for pymysql and requests.
        delivery = importlib.import_module("restart_guard.delivery")
        delivery.deliver(config, delivery.Which.DUE)


def _is_well(one: Guarded, seen: Seen) -> bool:
    if seen.state is State.RUNNING and seen.who is not None:
        return one.lock.read() == seen.who.pid
    return seen.state in (State.STOPPED, State.UNGUARDED)


def _side_by_side(config: Config, targets: Sequence[Guarded], act: Callable[[Guarded], Done]) -> Iterator[Done]:
    """Act on all at once; yield each result as it comes, then journal what happened."""
    if not targets:
        return
    happened: list[Done] = []
    finished: SimpleQueue[Done | BaseException] = SimpleQueue()

    def work(one: Guarded) -> None:
        try:
            finished.put(act(one))
        except BaseException as error:  # noqa: BLE001 (raised again by the thread that waits)
            finished.put(error)

    for one in targets:
        Thread(target=work, args=(one,), daemon=True).start()
    for _ in targets:
        done = finished.get()
        if isinstance(done, BaseException):
            raise done
        if done.event is not None:
            happened.append(done)
        yield done
    if happened:
        with Journal.open(config.state_dir) as journal, journal.transaction():
            for done in happened:
                journal.append(_event(config, done), [])
            journal.prune(clock.now())


def _event(config: Config, done: Done) -> Event:
    detail = config.redact(done.event or "")
    status = "success" if done.ok else "failure"
    more = {"host": os.uname().nodename, "relaunch": (done.event or "").startswith("relaunched")}
    return Event(new_run_id(), clock.now(), KIND, done.name, status, detail, more)


def status(config: Config, targets: Sequence[Guarded]) -> list[tuple[Guarded, Seen, int]]:
    """Every target as it is now, with how often it was relaunched. Raises JournalError."""
    seen = target.observe(targets, search_stopped=True)
    journal = Journal.open_to_read(config.state_dir)
    restarts = journal.relaunches() if journal is not None else {}
    return [(one, seen[one.name], restarts.get(one.name, 0)) for one in targets]


def lsb_code(states: Sequence[State]) -> int:
    """The exit code of status: that of the worst state."""
    worst = next((state for state in _WORST_FIRST if state in states), State.RUNNING)
    return _LSB[worst]
