"""Runs a target only for as long as its host may: python -m restart_guard.programs.fence PERMIT SECONDS -- COMMAND...

A small process between the guard and a target of a standby group. When the permit expires it KILLs all processes of the
target, whatever happened to the guard: killed, stopped, or cut off. Its own death ends the target too, by the
parent-death signal (prctl(2), PR_SET_PDEATHSIG). A second process, in a session of its own, ends whatever is left then,
at the latest when the permit expires, and all of it if the fence hangs and lets the permit pass.

It stays for as long as anything of the target's family runs the program: docs/lineage.md. SECONDS is the target's
start_timeout, within which launchers leave.

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
from restart_guard.errors import why_not_started
from restart_guard.host import permit, process_table
from restart_guard.host.family import FENCE, MARK, TICKET, Ending, Family, Snapshot, successor
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
    if sys.argv[3:4] != ["--"] or not sys.argv[4:]:
        sys.exit(__doc__)
    path, launcher_s, command = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[4:]
    own = process_table.identity(os.getpid())
    permitted = permit.read(path)
    if own is None or not (permitted.starts and permitted.holds()):
        sys.exit("This host does not lead: the program was not started.")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON | {signal.SIGCHLD})
    family = Family(own, os.environ.get(TICKET, ""), uid=os.getuid())
    _kill(partial(_marked, own, os.environ.get(MARK, "")), own.boot)  # left by a launch whose fences were killed
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # so that a daemon becomes our child and is fenced too
    again = partial(_second_again, path, own)
    try:
        second, child = _second(path, own), _child(command, before)
    except OSError as error:
        sys.exit(f"The fence could not start its processes: {why_not_started(error)}.")
    os.closerange(3, 64)
    while True:
        second = second or again()
        left_s = permit.read(path).until - clock.boottime()
        if left_s <= 0:
            _kill(partial(_left, family, second), own.boot)
            _end_as(-signal.SIGKILL)
        # The clock of a timed wait stops during a suspend, and the permit may be revoked.
        waited_for, seconds = _HANDED_ON | {signal.SIGCHLD}, min(left_s, _LOOK_S)
        received = signal.sigtimedwait(waited_for, seconds)  # type: ignore[attr-defined,unused-ignore]  # Linux
        number = received.si_signo if received is not None else 0
        if number in _HANDED_ON:
            with suppress(ProcessLookupError):
                os.kill(child, number)
        elif number == signal.SIGCHLD:
            is_launcher = process_table.uptime_s(own) < launcher_s
            child, second = _collect(family, child, second, again, soon=is_launcher)


def _collect(family: Family, child: int, second: int, again: Callable[[], int], *, soon: bool) -> tuple[int, int]:
    """Exit when the target has ended, in the same way. If another process goes on as the program, such as the daemon of
    a launcher, that is the child from then on. If the second process has ended, a new one is started."""
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
    if ended is not None:
        following = successor(_left(family, second), Ending(ended, soon=soon), process_table.executable)
        if following is None:
            # Processes that the second process will find may drain; all others must not outlive us.
            _kill(partial(_hidden, family, second), family.leader.boot)
            _end_as(ended)
        child = following.pid
    return child, second


def _hidden(family: Family, second: int) -> list[Facts]:
    return [member for member in _left(family, second) if not _is_found_again(member, family)]


def _is_found_again(member: Facts, family: Family) -> bool:
    return member.session == family.leader.pid or (
        bool(family.ticket) and process_table.environment_entry(member.pid, TICKET) == family.ticket
    )


def _children() -> list[int]:
    """The kernel's own list (proc(5)): a scan of all processes can miss one that is just being handed over to us."""
    own = os.getpid()
    try:
        return [int(word) for word in Path(f"/proc/{own}/task/{own}/children").read_text().split()]
    except OSError:
        return [member.pid for _ in range(2) for member in process_table.everybody() if member.parent == own]


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
        for name, value in json.loads(os.environ.pop(FENCE, "{}")).items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        os.execvp(command[0], command)  # noqa: S606 (a command of the config)
    except OSError as error:
        sys.stderr.write(f"{command[0]} could not be started: {error.strerror}\n")
        sys.stderr.flush()
    finally:
        os._exit(127)


def _second_again(path: Path, own: Identity) -> int:
    """0 if it could not be started; the next look tries again."""
    try:
        return _second(path, own)
    except OSError:
        return 0


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
        left = partial(_left, Family(own, os.environ.get(TICKET, ""), uid=os.getuid()), os.getpid())
        while permit.read(path).holds() and left():
            clock.sleep(LATE_S)
        _kill(left, own.boot)
    finally:
        os._exit(0)


def _left(family: Family, second: int) -> list[Facts]:
    """All processes of the target and our descendants, without the fence itself and its second process."""
    members = {member.pid: member for member in processes.family_of(family)}
    members |= {pid: member for pid in _children() if (member := process_table.facts(pid)) is not None}
    others = (second, family.leader.pid)
    return [member for member in members.values() if member.pid not in others and not member.dead]


def _marked(own: Identity, program: str) -> list[Facts]:
    """All processes that an earlier launch of this program has left."""
    snapshot = Snapshot()
    return [
        process
        for process in snapshot.processes
        if process.pid != own.pid
        and snapshot.entry(process, MARK) == program
        and snapshot.entry(process, FENCE) is None
    ]


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
