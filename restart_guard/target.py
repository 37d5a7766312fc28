"""A guarded program: observe it, decide, act. Acting is done while the program's own lock is held, after a new look.

Killed at any instant, nothing is left that the next run does not repair: the identity is recorded right after the
launch, and a program that runs without a record is found by what it is.
"""

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from restart_guard import process
from restart_guard.errors import BusyError, GuardError
from restart_guard.freshness import span
from restart_guard.lifecycle import Action, Command, State, decide, state_of
from restart_guard.pidlock import PidLock
from restart_guard.process import Identity, Launch, Program
from restart_guard.settings import Target

_LOG_TAIL_BYTES = 2000
_KILL_S = 10.0


class Guarded(NamedTuple):
    """A target with its files and how it is recognised."""

    name: str
    settings: Target
    program: Program
    lock: PidLock


class Seen(NamedTuple):
    """A target as it was found. ``why`` says more where there is more to say."""

    state: State
    who: Identity | None
    why: str = ""


class Done(NamedTuple):
    """What was done to a target. ``event`` is what the journal should keep of it, None when nothing happened."""

    name: str
    ok: bool
    text: str
    event: str | None = None
    busy: bool = False


class Stop(NamedTuple):
    """How long a program may drain (None: its own ``stop_timeout``), and whether what is left then is killed."""

    timeout_s: float | None = None
    force: bool = False


def guarded(name: str, settings: Target) -> Guarded:
    path = Path(os.path.realpath(settings.program))
    words = _words(settings, path)
    return Guarded(
        name, settings, Program(path, Path(words[0]).name if words else "", settings.identify), PidLock(path)
    )


def _words(settings: Target, path: Path) -> list[str]:
    """The command with {python} and {program} filled in; other braces are the command's own (``${HOME}``, awk)."""
    quote = shlex.quote if settings.shell else str
    fill = {"{python}": quote(sys.executable), "{program}": quote(str(path))}
    words = ["/bin/sh", "-c", settings.command] if settings.shell else shlex.split(settings.command)
    return [re.sub(r"\{python\}|\{program\}", lambda found: fill[found[0]], word) for word in words]


def observe(targets: Iterable[Guarded], *, search_stopped: bool) -> dict[str, Seen]:
    """Look at every target: by its recorded identity, which costs nothing, else by one search for all of the rest.

    Without ``search_stopped`` a target that has no pid lock is not searched for.
    """
    seen: dict[str, Seen] = {}
    unknown: dict[str, Guarded] = {}
    for target in targets:
        known = _by_record(target)
        if known is not None:
            seen[target.name] = known
        elif target.lock.is_there() or search_stopped:
            unknown[target.name] = target
        else:
            seen[target.name] = Seen(State.STOPPED, None)
    found = process.search({name: target.program for name, target in unknown.items()}) if unknown else {}
    for name, target in unknown.items():
        locked = target.lock.is_there()
        who = found.get(name)
        if name in found and who is None:
            seen[name] = Seen(State.UNKNOWN, None, "another user's process looks like it and may not be looked at")
        else:
            why = "" if who is None else "found by what it runs"
            seen[name] = Seen(state_of(locked=locked, alive=who is not None), who, why)
    return seen


def _by_record(target: Guarded) -> Seen | None:
    """What the record and the pid lock say, when they name a living process that is the program."""
    locked = target.lock.is_there()
    record = target.lock.recorded()
    try:
        if record is not None and process.is_alive(record):
            return Seen(state_of(locked=locked, alive=True), record)
        pid = target.lock.read()
        if pid is None or (record is not None and record.pid == pid):
            return None
        match process.matches(pid, target.program):
            case True:
                who = process.identity(pid)
                return Seen(state_of(locked=locked, alive=True), who) if who else None
            case None:
                return Seen(State.UNKNOWN, None, f"pid {pid} may not be looked at")
    except PermissionError:
        return Seen(State.UNKNOWN, None, "its process may not be looked at")
    return None


def act(target: Guarded, command: Command, *, stop: Stop | None = None, wait_s: float = 0.0) -> Done:
    """Do what a command asks of one target. What goes wrong is in the answer, never raised."""
    try:
        with target.lock.held(wait_s=wait_s):
            seen = observe([target], search_stopped=command is not Command.TICK)[target.name]
            return _do(target, decide(command, seen.state), seen, command, stop or Stop())
    except BusyError as error:
        return Done(target.name, ok=True, text=str(error), busy=True)
    except PermissionError as error:
        return Done(target.name, ok=False, text=f"its process may not be touched: {error.strerror}.")
    except GuardError as error:
        return Done(target.name, ok=False, text=str(error))


def _do(target: Guarded, action: Action, seen: Seen, command: Command, stop: Stop) -> Done:
    match action:
        case Action.LOCK if seen.who is not None:
            return _adopt(target, seen.who)
        case Action.LAUNCH:
            return _launch(target, "relaunched" if command is Command.TICK else "started")
        case Action.DRAIN if seen.who is not None:
            target.lock.remove()  # the intent first: a stop that is interrupted stays a stop
            return _drain(target, seen.who, stop)
        case Action.FORGET:
            target.lock.remove()
            return Done(target.name, ok=True, text="was dead; its pid lock is removed", event="stopped")
        case Action.KILL if seen.who is not None:
            return _kill(target, seen.who)
        case Action.CYCLE if seen.who is not None:
            drained = _drain(target, seen.who, stop)
            return _launch(target, f"{drained.text}; started") if drained.ok else drained
        case Action.REFUSE:
            if command is Command.STOP:
                target.lock.remove()
            return Done(target.name, ok=False, text=f"{seen.why}: it is neither signalled nor started.")
    if command is Command.TICK and seen.who is not None:
        return _repair(target, seen.who)
    ok = seen.state is not State.UNKNOWN
    return Done(target.name, ok=ok, text="" if command is Command.TICK and ok else seen.why or f"is {seen.state.value}")


def _adopt(target: Guarded, who: Identity) -> Done:
    target.lock.record(who)
    target.lock.write(who.pid)
    return Done(target.name, ok=True, text=f"runs already, pid {who.pid}")


def _repair(target: Guarded, who: Identity) -> Done:
    """A pid lock that names another pid than the process that lives, as a kill at the wrong moment leaves it."""
    if target.lock.read() == who.pid and target.lock.recorded() == who:
        return Done(target.name, ok=True, text="")
    if not target.lock.is_there():
        return Done(target.name, ok=True, text="")
    _adopt(target, who)
    return Done(target.name, ok=True, text=f"its pid lock is repaired: it runs as pid {who.pid}")


def _launch(target: Guarded, word: str) -> Done:
    """Launch, record who it is, see that it stays up, write the pid lock."""
    settings, path = target.settings, target.program.path
    environment = {**os.environ, **settings.environment, "RESTART_GUARD_TARGET": target.name}
    log_size = _size(settings.log_file)
    try:
        words = _words(settings, path)
        child = process.launch(Launch(words, path.parent, environment, settings.log_file))
    except (OSError, ValueError) as error:
        why = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else f"[targets] command: {error}"
        return Done(target.name, ok=False, text=f"could not be started: {why}", event="failed to start")
    who = process.identity(child.pid)
    if who is not None:
        target.lock.record(who)
    if who is not None and not process.wait(who, settings.min_uptime):
        target.lock.write(who.pid)
        return Done(target.name, ok=True, text=f"{word}, pid {who.pid}", event=f"{word}, pid {who.pid}")
    return _ended_early(target, child.wait(), word, log_size)


def _ended_early(target: Guarded, status: int, word: str, log_size: int) -> Done:
    """The process that was launched has ended: a launcher whose daemon runs on is fine, all else is a failure."""
    if status == 0:
        who = process.search({target.name: target.program}).get(target.name)
        if who is not None:
            _adopt(target, who)
            return Done(target.name, ok=True, text=f"{word}, pid {who.pid}", event=f"{word}, pid {who.pid}")
    ended = f"exit status {status}" if status >= 0 else f"signal {-status}"
    tail = _tail(target.settings.log_file, log_size)
    within = f"ended within {span(target.settings.min_uptime)} with {ended}"
    return Done(target.name, ok=False, text=f"{within}{tail}", event=f"failed to start: {ended}")


def _drain(target: Guarded, who: Identity, stop: Stop) -> Done:
    """TERM to the program and its kin, wait until all have ended, KILL what is left when forced."""
    number = signal.Signals[f"SIG{target.settings.stop_signal.removeprefix('SIG')}"]
    began = process.uptime_s(who)
    timeout = target.settings.stop_timeout if stop.timeout_s is None else stop.timeout_s
    others = process.kin(who)
    process.end(who, number)
    left = process.wait_for_all(who, others, timeout)
    if left and stop.force:
        for _ in range(3):  # what is killed may have forked meanwhile
            process.end(who, signal.SIGKILL)
            for found in left:
                process.send(Identity(found.pid, found.started, who.boot), signal.SIGKILL)
            left = process.wait_for_all(who, left, _KILL_S / 3)
            if not left:
                text = f"killed after {span(timeout)}"
                return Done(target.name, ok=True, text=text, event=text)
    took = span(process.uptime_s(who) - began)
    if left:
        names = ", ".join(f"{found.name} (pid {found.pid})" for found in left[:5])
        advice = "stop --force kills it"
        text = f"still runs after {took}: {names}; {advice}"
        return Done(target.name, ok=False, text=text, event=f"did not stop: {names}")
    return Done(target.name, ok=True, text=f"stopped in {took}", event=f"stopped in {took}")


def _kill(target: Guarded, who: Identity) -> Done:
    others = process.kin(who)
    process.end(who, signal.SIGKILL)
    left = process.wait_for_all(who, others, _KILL_S)
    if left:
        return Done(target.name, ok=False, text=f"pid {left[0].pid} does not die: it hangs in the kernel")
    again = "; the next tick brings it back" if target.lock.is_there() else ""
    return Done(target.name, ok=True, text=f"killed pid {who.pid}{again}", event="killed")


def _size(path: Path | None) -> int:
    try:
        return path.stat().st_size if path is not None else 0
    except OSError:
        return 0


def _tail(path: Path | None, start: int) -> str:
    """What a program wrote to its log before it ended."""
    if path is None:
        return "; set log_file to see what it says"
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - _LOG_TAIL_BYTES))
            said = file.read().decode(errors="replace").strip()
    except OSError as error:
        return f"; its log {path} cannot be read: {error.strerror}"
    return f"; the end of {path}:\n{said}" if said else f"; it wrote nothing to {path}"


def shown(target: Guarded, seen: Seen, restarts: int) -> Mapping[str, Any]:
    """The object of ``status --json``."""
    return {
        "target": target.name,
        "state": seen.state.value,
        "pid": seen.who.pid if seen.who else None,
        "uptime_s": round(process.uptime_s(seen.who), 1) if seen.who else None,
        "pid_lock": str(target.lock.path) if target.lock.is_there() else None,
        "restarts": restarts,
        "next_try_s": None,
        "why": seen.why,
    }
