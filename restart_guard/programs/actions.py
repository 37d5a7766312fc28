"""Acts on one guarded program: observe, decide, act. It acts while it holds the program's lock, after a new
observation.

If it is killed at any instant, the next run repairs the rest: the identity is recorded right after the launch, and a
program that runs without a record is searched for.
"""

import errno
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress

import msgspec

from restart_guard import clock, paths
from restart_guard.durations import span
from restart_guard.errors import BusyError, GuardError
from restart_guard.host import hook, process_table
from restart_guard.host.family import Ending, Family, is_fence
from restart_guard.host.files import user_name
from restart_guard.host.identity import Identity
from restart_guard.host.strangers import Likeness, Stranger
from restart_guard.programs import crashes, launch, processes
from restart_guard.programs import stop as drain
from restart_guard.programs.crashes import Crashes, Death
from restart_guard.programs.launch import Launched, Spawned
from restart_guard.programs.lifecycle import Action, Command, State, decide
from restart_guard.programs.observe import observe
from restart_guard.programs.pidlock import Record
from restart_guard.programs.results import FAILED, KILLED, ActionOptions, ActionResult, is_settled
from restart_guard.programs.target import Observation, StopOptions, Target, hook_of

_RUNNING = (Command.START, Command.TICK, Command.COLD, Command.HEAL)
"""The commands after which a target is to run."""


_ENDING = (Command.STOP, Command.KILL, Command.YIELD)


def act(target: Target, command: Command, options: ActionOptions = ActionOptions()) -> ActionResult:  # noqa: B008 (immutable)
    """Do what a command asks of one target. Errors are in the result, never raised."""
    result = _act(target, command, options)
    is_news = command is Command.TICK and not result.ok and not result.busy and result.event is None
    return result._replace(event=result.text, is_stuck=True) if is_news else result


def _act(target: Target, command: Command, options: ActionOptions) -> ActionResult:
    # Nobody can lock a program whose directory is gone, but it may have to be ended.
    is_gone = command in _ENDING and not paths.exists(target.program.path.parent)
    try:
        with nullcontext() if is_gone else target.lock.held(wait_s=options.wait_s):
            observed = _observe(target, command, options.ending)
            if observed.process is not None and command in _RUNNING and _is_unfenced(target, observed):
                drain.drain(target, observed.process, _family(target, observed), StopOptions(force=True))
                observed = _observe(target, command, None)
            if command is Command.STOP and target.permit is not None and not target.lock.has_record():
                target.lock.record(Record(process_table.boot_id()))  # becoming the leader must not start it here
            if observed.runs_as:
                return _leave(target, observed, command)
            if observed.stranger is not None and observed.stranger.likeness is not Likeness.ARGUMENTS:
                return _meet(target, observed.stranger, observed)
            return _do(target, observed, command, options)
    except BusyError as error:
        return ActionResult(target.name, ok=True, text=str(error), busy=True)
    except PermissionError as error:
        return ActionResult(target.name, ok=False, text=f"its process may not be signalled: {error.strerror}.")
    except GuardError as error:
        return ActionResult(target.name, ok=False, text=str(error))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        text = "could not be looked at: too many files are open; the limit (ulimit -n) is too low."
        return ActionResult(target.name, ok=False, text=text, busy=command is Command.TICK)  # the next one may do it


def _observe(target: Target, command: Command, ending: Ending | None) -> Observation:
    return observe(
        [target],
        search_stopped=command is not Command.TICK,
        search_strangers=command in (Command.START, Command.COLD),
        endings={target.name: ending} if ending is not None else {},
    )[target.name]


def _family(target: Target, observed: Observation) -> Family:
    assert observed.process is not None  # noqa: S101 (the caller's guard)
    return observed.family or Family(observed.process, uid=target.uid)


def _is_unfenced(target: Target, observed: Observation) -> bool:
    """Whether a target of a group would outlive its host's permit: a worker whose fence was killed, or a process from
    before there was a group. Neither may be taken for the target."""
    if target.permit is None or observed.process is None or observed.stranger is not None:
        return False
    return not is_fence(observed.process.pid)


def revive(ended: Sequence[tuple[Target, Identity]]) -> dict[str, ActionResult | None]:
    """Relaunch targets whose processes have just ended and left no orphans, as fast as possible: all are launched
    before anything is written.

    None for a target that needs more than that: another process acts on it, or it is no longer dead. Then call ``act``
    with a tick.
    """
    results: dict[str, ActionResult | None] = {}
    begun: list[tuple[Target, Spawned]] = []
    with ExitStack() as locks:
        for target, process in ended:
            results[target.name] = None
            with suppress(BusyError, PermissionError):
                try:
                    locks.enter_context(target.lock.held(wait_s=0))
                    record = target.lock.recorded(process_table.boot_id())
                    if record.process != process:
                        continue
                    if _may_be_launched(target, record):
                        begun.append((target, launch.spawn(target, record, by_hand=False)))
                    else:
                        results[target.name] = ActionResult(target.name, ok=True, text="")
                except GuardError as error:
                    if not isinstance(error, BusyError):
                        results[target.name] = ActionResult(target.name, ok=False, text=str(error))
        for target, spawned in begun:
            try:
                results[target.name] = _launch_result(target, launch.remember(target, spawned), "relaunched")
            except GuardError as error:
                results[target.name] = ActionResult(target.name, ok=False, text=str(error))
    return results


def _may_be_launched(target: Target, record: Record) -> bool:
    """Whether a dead target should run, and may be launched now."""
    if not target.lock.is_there() or not target.may_run or _waits(target, record):
        return False
    return crashes.next_try_s(record.crashes, target.settings.restart_backoff, now=clock.boottime()) == 0


def _do(target: Target, observed: Observation, command: Command, options: ActionOptions) -> ActionResult:
    match decide(command, observed.state):
        case Action.LOCK if observed.process is not None:
            launch.adopt(target, observed.process, observed.family, observed.record)
            return ActionResult(
                target.name, ok=True, text=f"already runs, pid {observed.process.pid}", process=observed.process
            )
        case Action.LAUNCH if not target.may_run:
            return _stand_by(target, observed, command)
        case Action.LAUNCH if command is Command.TICK and observed.record.starting:
            return _launch(target, observed, "started", options, by_hand=True)
        case Action.LAUNCH if command is Command.TICK:
            if _waits(target, observed.record):
                return ActionResult(target.name, ok=True, text="")
            return _launch(target, observed, "relaunched", options, by_hand=False)._replace(death=_death(observed))
        case Action.LAUNCH:
            return _launch(target, observed, "started", options, by_hand=command is not Command.HEAL)
        case Action.DRAIN | Action.REST | Action.FORGET | Action.KILL | Action.SWEEP as action:
            return _end(target, action, observed, options)
        case Action.CYCLE if observed.process is not None:
            return _cycle(target, observed, command, options)
        case Action.RELOAD if observed.process is not None:
            return _reload(target, observed.process)
        case Action.REFUSE:
            return _refuse(target, observed, command)
    if command is Command.TICK and observed.process is not None:
        return _repair(target, observed, observed.process)
    return ActionResult(target.name, ok=observed.state is not State.UNKNOWN, text=_as_it_is(observed, command))


def _meet(target: Target, stranger: Stranger, observed: Observation) -> ActionResult:
    """A start meets the program, which restart-guard did not start: adopt it if that may be."""
    pid = stranger.process.pid
    if stranger.likeness is Likeness.SAME and target.permit is None:
        launch.adopt(target, stranger.process, None, observed.record)
        return ActionResult(target.name, ok=True, text=f"already runs, pid {pid}", process=stranger.process)
    is_same = stranger.likeness is Likeness.SAME
    why = "it cannot be fenced" if is_same else f"it runs as user {user_name(stranger.owner)}"
    return ActionResult(
        target.name,
        ok=False,
        text=f"already runs as pid {pid}, which restart-guard did not start and may not take over: {why}. "
        "Nothing was started. Stop that process first, by hand.",
    )


def _death(observed: Observation) -> Death | None:
    """What a tick knows of the end of a dead program. Whether it is told already, the journal knows."""
    process = observed.record.process
    if process is None or observed.record.boot != process_table.boot_id():
        return None
    return Death(None, process_table.uptime_s(process), is_seen=False)


def _stand_by(target: Target, observed: Observation, command: Command) -> ActionResult:
    """This host may not run it now. A start is kept as the intent."""
    if command is Command.START and not target.lock.is_there():
        target.lock.write(os.getpid())
    text = "" if command is Command.TICK else "not started: this host is a standby; it is started when this host leads"
    return ActionResult(target.name, ok=True, text=text, process=observed.process)


def _end(target: Target, action: Action, observed: Observation, options: ActionOptions) -> ActionResult:
    """End a program, or the orphans of a dead one."""
    if action is Action.KILL and observed.process is not None:
        ended = drain.kill(observed.process, _family(target, observed))
        target.lock.record(msgspec.structs.replace(observed.record, crashes=Crashes()))
        again = "; the next tick relaunches it" if ended.ok and target.lock.is_there() else ""
        return ActionResult(target.name, ok=ended.ok, text=f"{ended.text}{again}", event=KILLED if ended.ok else None)
    if action in (Action.DRAIN, Action.FORGET):
        _give_up(target, observed.record)  # the intent first: a stop that is interrupted stays a stop
    if action in (Action.DRAIN, Action.REST) and observed.process is not None:
        return _stopped(target, observed, options)
    swept = _sweep(target, observed, options.stop)
    if swept is not None:
        return swept
    if action is Action.FORGET:
        return ActionResult(target.name, ok=True, text="was dead; its pid lock was removed", event="stopped")
    return ActionResult(target.name, ok=True, text=_as_it_is(observed, Command.STOP))


def _as_it_is(observed: Observation, command: Command) -> str:
    if command in (Command.TICK, Command.HEAL) and observed.state is not State.UNKNOWN:
        return ""
    return observed.why or f"is {observed.state.value}"


def _give_up(target: Target, record: Record) -> None:
    """Remove the intent: it need not run any more. Raises GuardError if that fails."""
    target.lock.remove()
    if not target.lock.record(msgspec.structs.replace(record, starting=False, crashes=Crashes())) and record.starting:
        target.lock.forget()


def _sweep(target: Target, observed: Observation, stop: StopOptions) -> ActionResult | None:
    """End the orphans of a dead program; None if there are none."""
    ended = drain.sweep(target, observed.family, stop) if observed.family is not None else None
    if ended is None:
        return None
    advice = "" if ended.ok else "; stop --force kills it"
    return ActionResult(target.name, ok=ended.ok, text=f"{ended.text}{advice}", event=ended.text)


def _leave(target: Target, observed: Observation, command: Command) -> ActionResult:
    """What another user runs who may act on the program: it is neither doubled nor signalled."""
    assert observed.process is not None  # noqa: S101 (the caller's guard)
    text = f"runs as user {observed.runs_as}, pid {observed.process.pid}; only that user and root can stop or reload it"
    is_fine = command in (Command.START, Command.TICK, Command.HEAL)
    return ActionResult(target.name, ok=is_fine, text="" if command is Command.TICK else text)


def _refuse(target: Target, observed: Observation, command: Command) -> ActionResult:
    if command is Command.STOP:
        _give_up(target, observed.record)
    if observed.state is State.UNKNOWN:
        return ActionResult(target.name, ok=False, text=f"{observed.why}: it is neither signalled nor started.")
    return ActionResult(target.name, ok=False, text=f"is {observed.state.value}: nothing to reload.")


def _repair(target: Target, observed: Observation, process: Identity) -> ActionResult:
    """Repair the traces of a kill at the wrong moment: a pid lock with another pid, or an unfinished start.

    A program that has stayed up long enough loses its crash count.
    """
    record = observed.record
    fine = target.lock.read() == process.pid and record.process == process and not record.starting
    if is_settled(target, observed):
        record = msgspec.structs.replace(record, crashes=Crashes())
        target.lock.record(record)
    if fine or observed.state is State.UNGUARDED:
        return ActionResult(target.name, ok=True, text="", process=process)
    launch.adopt(target, process, observed.family, record)
    if record.starting:
        text = f"its start was interrupted; it is guarded now, pid {process.pid}"
        return ActionResult(target.name, ok=True, text=text, event=text, process=process)
    if record.process is not None and record.process != process:
        return ActionResult(target.name, ok=True, text=f"goes on as pid {process.pid}", process=process)
    return ActionResult(
        target.name, ok=True, text=f"its pid lock was repaired: it runs as pid {process.pid}", process=process
    )


def _waits(target: Target, record: Record) -> bool:
    """Whether a first death, noticed now, must wait before its relaunch; that is recorded."""
    noticed = crashes.died(record.crashes, target.settings.restart_backoff, at=clock.boottime())
    if noticed == record.crashes:
        return False
    target.lock.record(msgspec.structs.replace(record, crashes=noticed))
    return True


def _launch(target: Target, observed: Observation, word: str, options: ActionOptions, *, by_hand: bool) -> ActionResult:
    cleared = drain.clear(target, observed.family) if observed.family is not None else ""
    launched = launch.launch(target, observed.record, by_hand=by_hand, settle=options.settle)
    words = f"{cleared}{word}" if not options.why else f"{options.why}: {cleared}{word}"
    result = _launch_result(target, launched, words)
    if observed.stranger is None or not result.ok:
        return result
    pid = observed.stranger.process.pid
    return result._replace(
        text=f"{result.text}; pid {pid}, which restart-guard did not start, runs the same program with other arguments "
        "and is left alone"
    )


def _launch_result(target: Target, result: Launched, words: str) -> ActionResult:
    if not result.ok:
        event = f"{FAILED}{result.why}"
        text = f"{words.rpartition('; ')[0]}; {result.text}" if "; " in words else result.text
        return ActionResult(
            target.name,
            ok=False,
            text=text,
            event=event,
            crashes=result.crashes,
            process=result.process,
            child=result.child,
        )
    text = f"{words}, pid {result.process.pid}" if result.process is not None else words
    if result.record.is_lock_shared:
        text += f"; it writes its own pid file to {target.lock.path}, which must be restart-guard's alone: set pid_file"
    return ActionResult(
        target.name, ok=True, text=text, event=text, crashes=result.crashes, process=result.process, child=result.child
    )


def _stopped(target: Target, observed: Observation, options: ActionOptions) -> ActionResult:
    assert observed.process is not None  # noqa: S101 (the caller's guard)
    ended = drain.drain(target, observed.process, _family(target, observed), options.stop)
    advice = "" if ended.ok else "; stop --force kills it"
    event = ended.text if ended.ok else f"did not stop: {ended.text}"
    return ActionResult(target.name, ok=ended.ok, text=f"{ended.text}{advice}", event=event)


def _cycle(target: Target, observed: Observation, command: Command, options: ActionOptions) -> ActionResult:
    """A graceful stop and a start. The pid lock stays, so that the next tick completes an interrupted one."""
    result = _stopped(target, observed, options)
    if not result.ok:
        return result
    by_hand = command is Command.COLD
    return _launch(target, observed, f"{result.text}; started", options, by_hand=by_hand)


def _reload(target: Target, process: Identity) -> ActionResult:
    """Reload in place: the same process goes on. A signal that would end it is not sent."""
    settings = target.settings
    if settings.reload_command is not None:
        ran = hook.run(hook_of(target, settings.reload_command, process, settings.stop_timeout))
        if not ran.ok:
            return ActionResult(
                target.name, ok=False, text=f"reload_command failed: {ran}", event=f"failed to reload: {ran}"
            )
    else:
        number = signal.Signals[f"SIG{settings.reload_signal.removeprefix('SIG')}"]
        program = processes.behind_fence(process)
        if not process_table.survives(program.pid, number):
            text = f"{number.name} would end it, because it does not handle that signal; nothing was sent"
            return ActionResult(target.name, ok=False, text=text)
        processes.send(program, number, target.uid)
    if process_table.wait(process, settings.min_uptime):
        text = f"ended within {span(settings.min_uptime)} of the reload"
        return ActionResult(target.name, ok=False, text=text, event=f"failed to reload: {text}")
    return ActionResult(
        target.name, ok=True, text=f"reloaded, pid {process.pid}", event=f"reloaded, pid {process.pid}", process=process
    )
