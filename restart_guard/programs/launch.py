"""Launches a program: start it, record its identity, see that it stays up, write the pid lock."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import msgspec

from restart_guard import clock
from restart_guard.durations import span
from restart_guard.errors import GuardError
from restart_guard.host import process_table
from restart_guard.host.hook import signal_name
from restart_guard.host.identity import Identity
from restart_guard.programs import crashes, processes
from restart_guard.programs.health import HealthRecord
from restart_guard.programs.pidlock import Record
from restart_guard.programs.target import Target, launch_of

_LOG_TAIL_BYTES = 2000
_DAEMON_S = 0.5


class Launched(NamedTuple):
    """The result of a launch. ``child`` is None if nothing was started or another process took over.

    ``text`` is for an operator and may hold the end of the program's log; ``why`` is the part for journal and alert.
    """

    ok: bool
    text: str
    why: str = ""
    process: Identity | None = None
    child: "subprocess.Popen[bytes] | None" = None
    crashes: int = 0


class Spawned(NamedTuple):
    """A program that was started and is not recorded yet; if it could not be started, ``child`` is None and ``why`` the
    reason."""

    record: Record
    child: "subprocess.Popen[bytes] | None"
    why: str = ""


def spawn(target: Target, before: Record, *, by_hand: bool) -> Spawned:
    """Start the program. Only while its lock is held, and ``remember`` must follow before that is released."""
    counts = crashes.launched(before.crashes, target.settings.restart_backoff, by_hand=by_hand, at=clock.boottime())
    ticket = before.ticket or _ticket()
    starting = by_hand and not target.lock.is_there()
    if starting or not before.ticket:
        # If we are killed after this line, the launched process is found by its ticket, and a tick completes the start.
        intent = Record(process_table.boot_id(), before.process, starting=starting, ticket=ticket, crashes=counts)
        if not target.lock.record(intent):
            raise GuardError(f"{target.lock.record_path} cannot be written: nothing was started.")
    record = Record(process_table.boot_id(), None, starting=starting, ticket=_ticket(), crashes=counts)
    try:
        return Spawned(record, processes.launch(launch_of(target, ticket)))
    except (OSError, ValueError, GuardError) as error:
        return Spawned(msgspec.structs.replace(record, starting=False), None, f"could not be started: {_why(error)}")


def _ticket() -> str:
    return os.urandom(8).hex()


def remember(target: Target, spawned: Spawned) -> Launched:
    """Record the identity, and bring an existing pid lock up to date. Raises GuardError."""
    crashes = spawned.record.crashes.in_a_row
    if spawned.child is None:
        target.lock.record(spawned.record)
        return Launched(ok=False, text=spawned.why, why=spawned.why, crashes=crashes)
    process = process_table.identity(spawned.child.pid)
    target.lock.record(msgspec.structs.replace(spawned.record, process=process))
    if process is not None and target.lock.is_there() and target.lock.read() != process.pid:
        target.lock.write(process.pid, sync=False)
    return Launched(ok=True, text="", process=process, child=spawned.child, crashes=crashes)


def launch(target: Target, before: Record, *, by_hand: bool, settle: bool) -> Launched:
    """Start the program and see that it stays up; only while its lock is held.

    Without ``settle`` the result comes as soon as it runs, for a caller that will itself notice if it ends early.
    """
    log_size = _size(target.settings.log_file)
    spawned = spawn(target, before, by_hand=by_hand)
    result = remember(target, spawned)
    if spawned.child is None or not settle:
        return result
    record = msgspec.structs.replace(spawned.record, process=result.process)
    if result.process is not None and not process_table.wait(result.process, target.settings.min_uptime):
        guard(target, record)
        ill = _wait_until_well(target, result.process) if by_hand else ""
        return result._replace(ok=not ill, text=ill, why=ill)
    return _ended_early(target, spawned.child.wait(), record, log_size)


def guard(target: Target, record: Record) -> None:
    """Write the pid lock for the recorded process, which makes the start complete. Raises GuardError."""
    if record.process is not None and target.lock.read() != record.process.pid:
        target.lock.write(record.process.pid)
    target.lock.record(msgspec.structs.replace(record, starting=False))


def adopt(target: Target, process: Identity, before: Record) -> None:
    """Guard a process that runs already. Raises GuardError."""
    same = before.process == process
    guard(target, msgspec.structs.replace(before, process=process, health=before.health if same else HealthRecord()))


def _ended_early(target: Target, status: int, record: Record, log_size: int) -> Launched:
    """The launched process has ended: that is fine for a launcher whose daemon runs on, and a failure otherwise."""
    if status == 0:
        process = daemon(target)
        if process is not None:
            adopt(target, process, record)
            return Launched(ok=True, text="", process=process, crashes=record.crashes.in_a_row)
    target.lock.record(msgspec.structs.replace(record, starting=False))
    why = f"ended within {span(target.settings.min_uptime)} with {how_it_ended(status)}"
    return Launched(
        ok=False, text=f"{why}{_tail(target.settings.log_file, log_size)}", why=why, crashes=record.crashes.in_a_row
    )


def daemon(target: Target) -> Identity | None:
    """The daemon of a launcher that ended with status 0, once it has stayed up: daemons fork more than once."""
    patience = max(_DAEMON_S, target.settings.min_uptime)
    deadline = clock.monotonic() + patience
    while clock.monotonic() < deadline:
        process = processes.search({target.name: target.program}, {}, {}).get(target.name)
        if process is not None and not process_table.wait(process, patience):
            return process
        clock.sleep(0.02)
    return None


def _wait_until_well(target: Target, process: Identity) -> str:
    """Wait until the health check passes, if there is one. The reason if it does not within ``start_timeout``."""
    if target.settings.health is None:
        return ""
    # A tick must not pay for an HTTP client.
    from restart_guard.programs.probe import probe

    deadline = clock.monotonic() + target.settings.start_timeout
    while True:
        looked = probe(target, process, "")
        if looked.ok is not False:
            return ""
        if process_table.wait(process, 0) or clock.monotonic() >= deadline:
            within = span(target.settings.start_timeout)
            return f"runs as pid {process.pid}, but its health check did not pass within {within}: {looked.why}"
        clock.sleep(min(0.1, target.settings.health.interval))


def how_it_ended(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {signal_name(-status)}"


def _why(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)


def _size(path: Path | None) -> int:
    try:
        return path.stat().st_size if path is not None else 0
    except OSError:
        return 0


def _tail(path: Path | None, start: int) -> str:
    """The output of a program before it ended, from its log."""
    if path is None:
        return "; set log_file to see its output"
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - _LOG_TAIL_BYTES))
            said = file.read().decode(errors="replace").strip()
    except OSError as error:
        return f"; its log {path} cannot be read: {error.strerror}"
    return f"; the end of {path}:\n{said}" if said else f"; it wrote nothing to {path}"
