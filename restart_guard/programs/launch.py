"""Launches a program: start it, record its identity, see that it stays up, write the pid lock."""

import os
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from restart_guard import clock
from restart_guard.durations import span
from restart_guard.errors import GuardError, why_not_started
from restart_guard.host import children, process_table
from restart_guard.host.family import Ending, Family, successor
from restart_guard.host.hook import signal_name
from restart_guard.host.identity import Facts, Identity
from restart_guard.programs import crashes, processes, stop
from restart_guard.programs.health import HealthRecord
from restart_guard.programs.pidlock import Record
from restart_guard.programs.target import Target, launch_of

if TYPE_CHECKING:
    from subprocess import Popen

_LOG_TAIL_BYTES = 2000


class Launched(NamedTuple):
    """The result of a launch. ``child`` is None if nothing was started; ``record`` is what was recorded about it.

    ``text`` is for an operator and may hold the end of the program's log; ``why`` is the part for journal and alert.
    """

    ok: bool
    text: str
    record: Record
    why: str = ""
    process: Identity | None = None
    child: "Popen[bytes] | None" = None

    @property
    def crashes(self) -> int:
        return self.record.crashes.in_a_row


class Spawned(NamedTuple):
    """A program that was started with this ticket and is not recorded yet; if it could not be started, ``child`` is
    None and ``why`` the reason."""

    record: Record
    ticket: str
    child: "Popen[bytes] | None"
    why: str = ""


def spawn(target: Target, before: Record, *, by_hand: bool) -> Spawned:
    """Start the program. Only while its lock is held, and ``remember`` must follow before that is released."""
    counts = crashes.launched(before.crashes, target.settings.restart_backoff, by_hand=by_hand, at=clock.boottime())
    ticket = before.ticket or _ticket()
    starting = by_hand and not target.lock.is_there()
    if starting or not before.ticket:
        # If we are killed after this line, the launched process is found by its ticket, and a tick completes the start.
        intent = msgspec.structs.replace(
            before, starting=starting, ticket=ticket, crashes=counts, health=HealthRecord()
        )
        if not target.lock.record(intent):
            raise GuardError(f"{target.lock.record_path} cannot be written: nothing was started.")
    record = Record(
        process_table.boot_id(),
        starting=starting,
        is_lock_shared=before.is_lock_shared,
        ticket=_ticket(),
        crashes=counts,
    )
    try:
        return Spawned(record, ticket, processes.launch(launch_of(target, ticket)))
    except (OSError, ValueError, GuardError) as error:
        why = f"could not be started: {_why(error)}"
        return Spawned(msgspec.structs.replace(record, starting=False), ticket, None, why)


def _ticket() -> str:
    return os.urandom(8).hex()[1:]  # less than 2**63, since the kernel keeps it as a limit too


def remember(target: Target, spawned: Spawned) -> Launched:
    """Record the identity, and bring an existing pid lock up to date. Raises GuardError."""
    if spawned.child is None:
        target.lock.record(spawned.record)
        return Launched(ok=False, text=spawned.why, record=spawned.record, why=spawned.why)
    # It may have ended already; it keeps its entry until we collect it.
    facts = process_table.facts(spawned.child.pid)
    started = 0 if facts is None else facts.started
    process = Identity(spawned.child.pid, started, process_table.boot_id())
    family = Family(process, spawned.ticket, uid=target.uid)
    record = msgspec.structs.replace(spawned.record, process=process, family=family)
    target.lock.record(record)
    if target.lock.is_there() and target.lock.read() != process.pid:
        target.lock.write(process.pid, sync=False)
    return Launched(ok=True, text="", record=record, process=process, child=spawned.child)


def launch(target: Target, before: Record, *, by_hand: bool, settle: bool) -> Launched:
    """Start the program and see that it stays up; only while its lock is held.

    Without ``settle`` the result comes as soon as it runs, for a caller that will itself notice if it ends early.
    """
    log_size = _size(target)
    was_locked = target.lock.is_there()
    result = remember(target, spawn(target, before, by_hand=by_hand))
    if result.child is None or not settle:
        return result
    process, record, status = _settled(target, result.record, result.child)
    if process is None:
        return _ended_early(target, status, record, log_size)
    if not was_locked and target.lock.is_there():  # and not by us
        record = msgspec.structs.replace(record, is_lock_shared=True)
    guard(target, record)
    ill = _wait_until_well(target, process) if by_hand else ""
    return result._replace(ok=not ill, text=ill, record=record, why=ill, process=process)


def _settled(target: Target, record: Record, child: "Popen[bytes]") -> tuple[Identity | None, Record, int | None]:
    """Follow a launch until what runs the program has stayed up for ``min_uptime``: the launched process, or what goes
    on in its place. No process, and the last exit status, if nothing does.

    A chain of launchers is followed for as long as a start may take.
    """
    settings = target.settings
    deadline = clock.monotonic() + max(settings.start_timeout, settings.min_uptime)
    process = record.process
    while process is not None:
        ended = process_table.wait(process, settings.min_uptime)
        if not ended and _may_launch(target, process, record):
            # Who waits for a daemon to be ready may take longer; later nobody could tell its end from a crash.
            ended = process_table.wait(process, deadline - clock.monotonic())
        if not ended:
            break
        status = child.wait() if process.pid == child.pid else children.collect(process.pid)
        following = follow(target, record, Ending(status))
        if following is None or clock.monotonic() > deadline:
            return None, record, status
        record, process = following, following.process
    return process, record, None


def _may_launch(target: Target, process: Identity, record: Record) -> bool:
    """Whether a living process may be the launcher of a daemon, which has a session of its own. A fence waits itself
    for the end of launchers."""
    facts = process_table.facts(process.pid)
    if facts is None or record.family is None or target.permit is not None:
        return False
    return any(member.session != facts.session for member in processes.family_of(record.family))


def follow(target: Target, record: Record, ending: Ending) -> Record | None:
    """The record with what goes on as the program after its process has ended; None if the program is dead.

    Behind a fence nothing goes on: the fence stays for as long as anything of its family lives.
    """
    if record.family is None or target.permit is not None:
        return None
    found = successor(processes.family_of(record.family), ending, process_table.executable)
    return None if found is None else followed_by(record, found)


def followed_by(record: Record, found: Facts) -> Record:
    """The record of a program that this member of its family runs from now on."""
    assert record.family is not None  # noqa: S101 (the caller's guard)
    family = record.family.followed_by(found)
    return msgspec.structs.replace(record, process=processes.identity_of(found), family=family, health=HealthRecord())


def guard(target: Target, record: Record) -> None:
    """Write the pid lock for the recorded process, which makes the start complete. Raises GuardError."""
    if record.process is not None and target.lock.read() != record.process.pid:
        target.lock.write(record.process.pid)
    target.lock.record(msgspec.structs.replace(record, starting=False))


def adopt(target: Target, process: Identity, family: Family | None, before: Record) -> None:
    """Guard a process that runs already. Raises GuardError."""
    if before.process != process:
        before = msgspec.structs.replace(before, process=process, health=HealthRecord())
    guard(target, msgspec.structs.replace(before, family=family or Family(process, uid=target.uid)))


def _ended_early(target: Target, status: int | None, record: Record, log_size: int) -> Launched:
    """The launched process has ended and nothing goes on in its place: what it left is ended too."""
    cleared = stop.clear(target, record.family) if record.family is not None else ""
    target.lock.record(msgspec.structs.replace(record, starting=False))
    how = f" with {how_it_ended(status)}" if status is not None else ""
    why = f"{cleared}ended within {span(target.settings.min_uptime)}{how}"
    return Launched(ok=False, text=f"{why}{_tail(target, log_size)}", record=record, why=why)


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
    why = why_not_started(error)
    return f"{why}: {error.filename}" if error.filename else why


def _size(target: Target) -> int:
    path = target.settings.log_file
    return 0 if path is None else target.files(path).size(path)


def _tail(target: Target, start: int) -> str:
    """The output of a program before it ended, from its log."""
    path = target.settings.log_file
    if path is None:
        return "; set log_file to see its output"
    try:
        said = target.files(path).read_end(path, _LOG_TAIL_BYTES, start=start).decode(errors="replace").strip()
    except OSError as error:
        return f"; its log {path} cannot be read: {error.strerror}"
    return f"; the end of {path}:\n{said}" if said else f"; it wrote nothing to {path}"
