"""Runs a target only for as long as its host may: python -m restart_guard.programs.fence PERMIT -- COMMAND...

A small process between the guard and a target of a standby group. When the permit expires it KILLs all processes of the
target, whatever happened to the guard: killed, stopped, or cut off. Its own death ends the target too, by the
parent-death signal (prctl(2), PR_SET_PDEATHSIG). A second process, in a session of its own, ends whatever is left then,
at the latest when the permit expires, and all of it if the fence hangs and lets the permit pass.

Variables that are meant for the target's Python must not affect this one: RESTART_GUARD_FENCE has the differences.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from restart_guard import clock
from restart_guard.host import permit, process_table
from restart_guard.host.identity import Facts, Identity
from restart_guard.programs import processes

LATE_S = 0.1
"""So much after the end of the permit the second process acts in place of the fence."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_DUMPABLE = 4
_LOOK_S = 0.05
# Signals of job control stop us together with our session; signals that the kernel sends for a fault concern only us.
_NOT_HANDED_ON = {signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT}
_NOT_HANDED_ON |= {signal.SIGCHLD, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
_HANDED_ON = signal.valid_signals() - _NOT_HANDED_ON


def main() -> None:
    if sys.argv[2:3] != ["--"] or not sys.argv[3:]:
        sys.exit(__doc__)
    path, command = Path(sys.argv[1]), sys.argv[3:]
    own = process_table.identity(os.getpid())
    permitted = permit.read(path)
    if own is None or not (permitted.starts and permitted.holds()):
        sys.exit("This host does not lead: the program was not started.")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON | {signal.SIGCHLD})
    ours = partial(_all_of, own, Path(os.environ.get(processes.MARK, "")))
    _kill(partial(ours, 0), own.boot)  # left by an earlier launch whose fences were killed
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # so that a daemon becomes our child and is fenced too
    again = partial(_second, path, own)
    second = again()
    child = _child(command, before)
    os.closerange(3, 64)
    while True:
        left_s = permit.read(path).until - clock.boottime()
        if left_s <= 0:
            _kill(partial(ours, second), own.boot)
            _end_as(-signal.SIGKILL)
        # The clock of a timed wait stops during a suspend, and the permit may be revoked.
        waited_for, seconds = _HANDED_ON | {signal.SIGCHLD}, min(left_s, _LOOK_S)
        received = signal.sigtimedwait(waited_for, seconds)  # type: ignore[attr-defined,unused-ignore]  # Linux
        number = received.si_signo if received is not None else 0
        if number in _HANDED_ON:
            with suppress(ProcessLookupError):
                os.kill(child, number)
        elif number == signal.SIGCHLD:
            child, second = _collect(own, child, second, again)


def _collect(own: Identity, child: int, second: int, again: Callable[[], int]) -> tuple[int, int]:
    """Exit when the target has ended, in the same way. A target that ended with status 0 may have been the launcher of
    a daemon, which is the child from then on. If the second process has ended, a new one is started."""
    ended = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                ended = os.waitstatus_to_exitcode(status)
            if pid == second:
                second = again()
    if ended is None:
        return child, second
    program = Path(os.environ.get(processes.MARK, ""))
    daemons = [pid for pid in _children() if pid != second and _is_program(pid, program)] if ended == 0 else []
    if not daemons:
        # Processes that the second process will find may drain; all others must not outlive us.
        _kill(lambda: [member for member in _all_of(own, None, second) if not _is_found_again(member, own)], own.boot)
        _end_as(ended)
    return daemons[0], second


def _is_found_again(member: Facts, own: Identity) -> bool:
    ticket = os.environ.get(processes.TICKET)
    return member.session == own.pid or (
        bool(ticket) and process_table.environment_entry(member.pid, processes.TICKET) == ticket
    )


def _children() -> list[int]:
    """The kernel's own list (proc(5)): a scan of all processes can miss one that is just being handed over to us."""
    own = os.getpid()
    try:
        return [int(word) for word in Path(f"/proc/{own}/task/{own}/children").read_text().split()]
    except OSError:
        return [member.pid for _ in range(2) for member in process_table.everybody() if member.parent == own]


def _is_program(pid: int, program: Path) -> bool:
    """Whether a process has the program as its executable or among its arguments."""
    try:
        look = process_table.look(pid)
    except OSError:
        return False
    folder = look.cwd or program.parent
    return look.exe == program or any(os.path.realpath(folder / word) == str(program) for word in look.argv)


def _end_as(code: int) -> NoReturn:
    """Exit with a status, or by the signal of a negative one, without a core dump of our own."""
    if code < 0:
        _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def die_with_parent(number: int, parent: int) -> None:
    """Get this signal when the thread that started us ends; to be called in a child right after fork."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # the parent has already ended
        os.kill(os.getpid(), number)


def _child(command: list[str], mask: set[signal.Signals] | set[int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        die_with_parent(signal.SIGKILL, parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these
            signal.signal(number, signal.SIG_DFL)
        for name, value in json.loads(os.environ.pop(processes.FENCE, "{}")).items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        os.execvp(command[0], command)  # noqa: S606 (a command of the config)
    except OSError as error:
        sys.stderr.write(f"{command[0]} could not be started: {error.strerror}\n")
        sys.stderr.flush()
    finally:
        os._exit(127)


def _second(path: Path, own: Identity) -> int:
    """A process in a session of its own that stays until the fence and everything it left has ended.

    What is left may drain; it is ended by whoever launches the target again, or here when the permit expires.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        with suppress(OSError):
            os.closerange(0, 64)
        die_with_parent(signal.SIGUSR1, own.pid)
        while os.getppid() == own.pid:
            signal.sigtimedwait({signal.SIGUSR1}, LATE_S)  # type: ignore[attr-defined,unused-ignore]  # Linux
            if permit.read(path).until + LATE_S < clock.boottime():
                process_table.send(own, signal.SIGKILL)  # it hangs, or was stopped
                break
        left = partial(processes.of_launch, own, os.environ.get(processes.TICKET, ""))
        while permit.read(path).holds() and left():
            clock.sleep(LATE_S)
        _kill(left, own.boot)
    finally:
        os._exit(0)


def _all_of(own: Identity, program: Path | None, second: int) -> list[Facts]:
    """All processes that belong to the target, of this launch or another, and our descendants, except the second
    process."""
    members = {member.pid: member for member in processes.kin(own, program)}
    members |= {pid: member for pid in _children() if (member := process_table.facts(pid)) is not None}
    return [member for member in members.values() if member.pid != second and not member.dead]


def _kill(left: Callable[[], Sequence[Facts]], boot: str) -> None:
    """KILL until nothing is left; a process that hangs in the kernel will not run again."""
    for _ in range(100):
        members = left()
        if not members:
            return
        for member in members:
            with suppress(ProcessLookupError, PermissionError):
                process_table.send(Identity(member.pid, member.started, boot), signal.SIGKILL)
        clock.sleep(0.01)


if __name__ == "__main__":
    main()
