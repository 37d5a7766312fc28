"""Runs a target only for as long as its host may: python -m restart_guard.fence PERMIT -- COMMAND...

A small process between the guard and a target of a standby group. When the permit runs out it KILLs all that the
target is, whatever has become of the guard: killed, stopped, or cut off. Its own death ends the target too, by the
parent-death signal (prctl(2), PR_SET_PDEATHSIG). A second process, in a session of its own, ends the rest of the
session when the fence has died, and all of it when the fence hangs and lets the permit pass.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from restart_guard import clock, host, permit, process
from restart_guard.identity import Identity

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.05
_LATE_S = 0.1  # so much after the end of the permit the second process acts in place of the fence
_HANDED_ON = {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH}
# The target gets these itself, as all others of its session do: handed on they would come twice.
_LEFT_ALONE = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP}


def main() -> None:
    path, separator, *command = Path(sys.argv[1]), *sys.argv[2:]
    if separator != "--" or not command:
        sys.exit(__doc__)
    own = host.identity(os.getpid())
    permitted = permit.read(path)
    if own is None or not (permitted.starts and permitted.holds()):
        sys.exit("This host does not lead: the program was not started.")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON | _LEFT_ALONE | {signal.SIGCHLD})
    program = Path(os.environ.get(process.MARK, ""))
    _end_all(own, program)  # what an earlier launch has left, should its fences have been killed
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # a daemon becomes our child, and we its fence
    second = _second(path, own, program)
    child = _child(command, before)
    os.closerange(3, 64)
    while True:
        left_s = permit.read(path).until - clock.boottime()
        if left_s <= 0:
            _end_all(own, program)
            os._exit(128 + signal.SIGKILL)
        # The kernel's clock for a timed wait stands still in a suspend, and the permit may be taken back.
        waited_for, seconds = _HANDED_ON | _LEFT_ALONE | {signal.SIGCHLD}, min(left_s, _LOOK_S)
        found = signal.sigtimedwait(waited_for, seconds)  # type: ignore[attr-defined,unused-ignore]  # Linux
        number = found.si_signo if found is not None else 0
        if number in _HANDED_ON:
            with suppress(ProcessLookupError):
                os.kill(child, number)
        elif number == signal.SIGCHLD:
            child, second = _collect(child, second, partial(_second, path, own, program))


def _collect(child: int, second: int, again: Callable[[], int]) -> tuple[int, int]:
    """Leave when the target has ended, as it did; after a launcher that ended well (``child`` is 0 then) once the
    daemon that it left has ended. The second process, if that has ended, is made anew."""
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                child, code = 0, os.waitstatus_to_exitcode(status)
                if code:
                    os._exit(code if code > 0 else 128 - code)
            if pid == second:
                second = again()
    own = os.getpid()
    if not child and not any(one.parent == own and one.pid != second and not one.dead for one in host.everybody()):
        os._exit(0)
    return child, second


def die_with_parent(number: int, parent: int) -> None:
    """Get this signal when the thread that started us has ended; for a child that has just been forked."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it was quicker
        os.kill(os.getpid(), number)


def _child(command: list[str], mask: set[signal.Signals] | set[int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        die_with_parent(signal.SIGKILL, parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvp(command[0], command)  # noqa: S606 (a command of the config)
    except OSError as error:
        sys.stderr.write(f"{command[0]} could not be started: {error.strerror}\n")
        sys.stderr.flush()
    finally:
        os._exit(127)


def _second(path: Path, own: Identity, program: Path) -> int:
    """A process of its own session that waits for the fence's end, and then ends what the fence has left."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        with suppress(OSError):
            os.closerange(0, 64)
        die_with_parent(signal.SIGUSR1, own.pid)
        while os.getppid() == own.pid:
            signal.sigtimedwait({signal.SIGUSR1}, _LATE_S)  # type: ignore[attr-defined,unused-ignore]  # Linux
            if permit.read(path).until + _LATE_S < clock.boottime():
                host.send(own, signal.SIGKILL)  # it hangs, or was stopped
                break
        _end_all(own, program)
    finally:
        os._exit(0)


def _end_all(own: Identity, program: Path) -> None:
    """KILL whatever belongs to the target, until nothing is left of it but us."""
    for _ in range(100):
        left = process.kin(own, program)
        if not left:
            return
        for one in left:
            with suppress(ProcessLookupError, PermissionError):
                host.send(Identity(one.pid, one.started, own.boot), signal.SIGKILL)
        clock.sleep(0.01)


if __name__ == "__main__":
    main()
