"""The tick, which cron runs every minute: relaunch, check health, deliver."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from restart_guard import clock
from restart_guard.config.options import Config, Ping
from restart_guard.errors import BusyError, DeliveryError, ExitCode, GuardError
from restart_guard.host import process_table
from restart_guard.journal import spans
from restart_guard.journal.journal import Journal
from restart_guard.programs import crashes, events, processes
from restart_guard.programs.health import hangs, judged
from restart_guard.programs.health import is_due as probe_is_due
from restart_guard.programs.lifecycle import Command, State
from restart_guard.programs.observe import observe
from restart_guard.programs.operate import run_all
from restart_guard.programs.results import ActionOptions, ActionResult, is_settled
from restart_guard.programs.target import Observation, StopOptions, Target

if TYPE_CHECKING:
    from restart_guard.alerts.ping import Start

_GAP = timedelta(minutes=15)  # what cron daemons make up for after a sleep
PING_ERROR = "ping.error"
"""The journal's fact about why the monitor was not reached the last time."""


def tick(config: Config, targets: Sequence[Target]) -> Iterator[ActionResult]:
    """Relaunch dead targets, restart hanging ones, deliver what is due.

    Targets that are well are seen by their record, without a lock or a search; a target without a pid lock is left
    alone. Raises JournalError at the end.
    """
    processes.prepare()
    start = _start_ping(config.ping) if config.ping is not None else None
    begun = clock.now()
    observed = observe(targets, search_stopped=False)
    looks = Looks(begun, events.states(targets, observed))
    jobs: list[Callable[[], ActionResult | None]] = [
        partial(_act, target, Command.TICK) for target in targets if needs_care(target, observed[target.name])
    ]
    jobs += [partial(look_after, target, observed[target.name]) for target in targets if target.settings.health]
    jobs += [partial(weigh, target, observed[target.name]) for target in targets if target.settings.max_memory]
    well = True
    busy = []
    for result in run_all(config, jobs):
        well = well and result.ok
        if result.busy:
            busy.append(result)
        elif result.ok and result.process is not None:
            looks.after[result.name] = State.RUNNING
        yield result
    for result in keep_house(config, targets, looks, busy):
        well = well and result.ok
        yield result
    if start is not None:
        error = start.wait()
        if error is None:
            tell_monitor(config, rid=start.rid, well=well)
        else:
            # A monitor that did not answer the start would only make us wait once more.
            with Journal.open(config.state_dir) as journal:
                journal.remember(PING_ERROR, config.redact(error))


def _start_ping(settings: Ping) -> "Start":
    # An idle tick without a monitor must not pay for an HTTP client.
    from restart_guard.alerts.ping import TICK, Start

    return Start(settings, TICK)


def tell_monitor(config: Config, *, rid: str = "", well: bool = True) -> None:
    """Ping the monitor: the tick is alive, or it or an alert has failed. A monitor that cannot be reached does not make
    the tick fail: the next one pings again, and ``doctor`` reports it. Raises JournalError."""
    if config.ping is None:
        return
    # Only with a monitor, as for the start.
    from restart_guard.alerts import ping

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


class Looks:
    """How targets were at a moment, and ``after`` what was done then."""

    def __init__(self, at: datetime, states: Mapping[str, str]) -> None:
        self.at = at
        self.states = states
        self.after: dict[str, str] = {}


def look(targets: Sequence[Target]) -> Looks:
    """For a watch, which otherwise looks only at what has changed."""
    return Looks(clock.now(), events.states(targets, observe(targets, search_stopped=False)) if targets else {})


def keep_house(
    config: Config, targets: Sequence[Target], looks: Looks, busy: Sequence[ActionResult] | None = None
) -> list[ActionResult]:
    """Record the heartbeat and how the targets are, end incidents, and deliver what is due. ``busy`` are the results of
    a tick on targets on which somebody else acts. Raises JournalError."""
    with Journal.open(config.state_dir) as journal:
        with journal.transaction():
            _beat(journal)
            spans.look(journal, events.KIND, looks.states, looks.at.timestamp())
            if looks.after:
                spans.look(journal, events.KIND, looks.after, clock.now().timestamp(), is_exact=True)
            news = events.settle(config, journal, targets)
            if busy is not None:
                news += events.tell_held_up(config, journal, targets, busy)
        now = clock.now()
        # Blocked deliveries count too: the delivery finds out whether the config has changed.
        due = any(journal.is_due(destination, now) for destination in journal.open_destinations())
    if due:
        # An idle tick must not pay for pymysql and requests.
        from restart_guard.journal import delivery

        delivery.deliver(config, delivery.Which.DUE)
    if any(target.settings.log_max_size for target in targets):
        # Most targets' logs are not ours to rotate.
        from restart_guard.programs.upkeep import LOG_TROUBLE, rotate_logs

        news += _tell_once(config, LOG_TROUBLE, rotate_logs(targets))
    return news


def _tell_once(config: Config, fact: str, troubles: Mapping[str, str]) -> list[ActionResult]:
    """What is new of troubles by target, which no tick fails for; ``doctor`` tells all of them."""
    text = msgspec.json.encode(troubles).decode()
    with Journal.open(config.state_dir) as journal:
        known = journal.recall(fact) or "{}"
        if text == known:
            return []
        with journal.transaction():
            journal.remember(fact, text)
    told = msgspec.json.decode(known, type=dict[str, str])
    return [ActionResult(name, ok=True, text=why) for name, why in troubles.items() if told.get(name) != why]


def _beat(journal: Journal) -> None:
    """Remember this tick, and since when ticks have come without a gap."""
    now = clock.now()
    last = journal.recall("tick")
    if last is None or not timedelta(0) <= now - datetime.fromisoformat(last) < _GAP:
        journal.remember("tick.since", clock.stamp(now))
    journal.remember("tick", clock.stamp(now))


def needs_care(target: Target, observed: Observation) -> bool:
    """Whether a tick has anything to do or to repair."""
    if observed.runs_as or (observed.process is None and not target.may_run):
        return False
    if observed.state is State.RUNNING and observed.process is not None:
        wrong = target.lock.read() != observed.process.pid or observed.record.process != observed.process
        return wrong or observed.record.starting or is_settled(target, observed)
    return observed.state not in (State.STOPPED, State.UNGUARDED, State.BACKOFF)


_LOCK_WAIT_S = 1.0


def _act(target: Target, command: Command, options: ActionOptions = ActionOptions()) -> ActionResult:  # noqa: B008 (immutable)
    # An idle tick does nothing.
    from restart_guard.programs.actions import act

    return act(target, command, options)


def weigh(target: Target, observed: Observation) -> ActionResult | None:
    """Restart a program that uses too much memory. None if that is no news."""
    # As above.
    from restart_guard.programs import upkeep

    return upkeep.weigh(target, observed)


def look_after(target: Target, observed: Observation) -> ActionResult | None:
    """Check the health of a running target if that is due; restart one that hangs. None if that is no news."""
    health = target.settings.health
    if health is None or observed.process is None or observed.state is not State.RUNNING:
        return None
    if not probe_is_due(observed.record.health, health, now=clock.boottime()):
        return None
    # An idle tick must not pay for an HTTP client.
    from restart_guard.programs.probe import probe

    looked = probe(target, observed.process, observed.record.health.beat)
    fresh = process_table.uptime_s(observed.process) < target.settings.start_timeout
    try:
        with target.lock.held(wait_s=_LOCK_WAIT_S):
            record = target.lock.recorded(process_table.boot_id())
            if record.process != observed.process:
                return None  # it was restarted meanwhile
            now = clock.boottime()
            after = judged(record.health, looked, health, started=observed.process.started, now=now, fresh=fresh)
            target.lock.record(msgspec.structs.replace(record, health=after))
    except BusyError:
        return None
    except GuardError as error:
        return ActionResult(target.name, ok=False, text=str(error))
    wait = crashes.next_try_s(record.crashes, target.settings.restart_backoff, now=clock.boottime())
    if not hangs(after, health) or wait > 0:
        return None
    times = f"{after.failures} times in a row" if after.failures > 1 else "once"
    # A program that hangs may ignore a gentle signal; after its time to drain it is killed.
    return _act(target, Command.HEAL, ActionOptions(StopOptions(force=True), why=f"hangs ({looked.why}, {times})"))
