"""Runs a target only for as long as its host may: python -m restart_guard.fence PERMIT [NAME[=VALUE]...] -- COMMAND...

A small process between the guard and a target of a standby group. When the permit runs out it KILLs all that the
target is, whatever has become of the guard: killed, stopped, or cut off. Its own death ends the target too, by the
parent-death signal (prctl(2), PR_SET_PDEATHSIG). A second process, in a session of its own, ends what is left then at
the latest when the permit runs out, and all of it when the fence hangs and lets the permit pass.

The words before ``--`` are what the target's environment has otherwise than ours: what is meant for its Python must
not reach this one.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from restart_guard import clock, host, permit, process
from restart_guard.identity import Facts, Identity, descendants

LATE_S = 0.1
"""So much after the end of the permit the second process acts in place of the fence."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.05
# Those of job control stop us with our session, and those that the kernel sends for a fault are our own.
_NOT_HANDED_ON = {signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT}
_NOT_HANDED_ON |= {signal.SIGCHLD, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
_HANDED_ON = signal.valid_signals() - _NOT_HANDED_ON


def main() -> None:
    words = sys.argv[1:]
    if "--" not in words[1:-1]:
        sys.exit(__doc__)
    end = words.index("--")
    path, changes, command = Path(words[0]), words[1:end], words[end + 1 :]
    own = host.identity(os.getpid())
    permitted = permit.read(path)
    if own is None or not (permitted.starts and permitted.holds()):
        sys.exit("This host does not lead: the program was not started.")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON | {signal.SIGCHLD})
    ours = partial(_all_of, own, Path(os.environ.get(process.MARK, "")))
    _kill(partial(ours, 0), own.boot)  # what an earlier launch has left, should its fences have been killed
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # a daemon becomes our child, and we its fence
    again = partial(_second, path, own)
    second = again()
    child = _child(command, changes, before)
    os.closerange(3, 64)
    while True:
        left_s = permit.read(path).until - clock.boottime()
        if left_s <= 0:
            _kill(partial(ours, second), own.boot)
            os._exit(128 + signal.SIGKILL)
        # The kernel's clock for a timed wait stands still in a suspend, and the permit may be taken back.
        waited_for, seconds = _HANDED_ON | {signal.SIGCHLD}, min(left_s, _LOOK_S)
        found = signal.sigtimedwait(waited_for, seconds)  # type: ignore[attr-defined,unused-ignore]  # Linux
        number = found.si_signo if found is not None else 0
        if number in _HANDED_ON:
            with suppress(ProcessLookupError):
                os.kill(child, number)
        elif number == signal.SIGCHLD:
            child, second = _collect(child, second, again)


def _collect(child: int, second: int, again: Callable[[], int]) -> tuple[int, int]:
    """Leave when the target has ended, as it did; after one that ended well once what it has left has ended, since it
    may have been a daemon's launcher (then the child is the first of these). The second process, if that has ended, is
    made anew."""
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                if code:
                    os._exit(code if code > 0 else 128 - code)
            if pid == second:
                second = again()
    living = sorted(
        (one.started, one.pid)
        for one in host.everybody()
        if one.parent == os.getpid() and one.pid != second and not one.dead
    )
    if not living:
        os._exit(0)
    return (child if any(pid == child for _, pid in living) else living[0][1]), second


def die_with_parent(number: int, parent: int) -> None:
    """Get this signal when the thread that started us has ended; for a child that has just been forked."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it was quicker
        os.kill(os.getpid(), number)


def _child(command: list[str], changes: Sequence[str], mask: set[signal.Signals] | set[int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        die_with_parent(signal.SIGKILL, parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for change in changes:
            name, given, value = change.partition("=")
            if given:
                os.environ[name] = value
            else:
                os.environ.pop(name, None)
        os.execvp(command[0], command)  # noqa: S606 (a command of the config)
    except OSError as error:
        sys.stderr.write(f"{command[0]} could not be started: {error.strerror}\n")
        sys.stderr.flush()
    finally:
        os._exit(127)


def _second(path: Path, own: Identity) -> int:
    """A process of its own session that stays until the fence and all that it has left has ended.

    What is left may drain; it is ended by whoever launches the target again, or here when the permit runs out.
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
                host.send(own, signal.SIGKILL)  # it hangs, or was stopped
                break
        left = partial(process.of_launch, own, os.environ.get(process.TICKET, ""))
        while permit.read(path).holds() and left():
            clock.sleep(LATE_S)
        _kill(left, own.boot)
    finally:
        os._exit(0)


def _all_of(own: Identity, program: Path, second: int) -> list[Facts]:
    """Whatever belongs to the target, of this launch or another, and whatever descends from us, but for the second."""
    everybody = list(host.everybody())
    found = {one.pid: one for one in (*process.kin(own, program), *descendants([own.pid], everybody))}
    return [one for one in found.values() if one.pid != second and not one.dead]


def _kill(left: Callable[[], Sequence[Facts]], boot: str) -> None:
    """KILL until nothing is left; what hangs in the kernel will not run again."""
    for _ in range(100):
        found = left()
        if not found:
            return
        for one in found:
            with suppress(ProcessLookupError, PermissionError):
                host.send(Identity(one.pid, one.started, boot), signal.SIGKILL)
        clock.sleep(0.01)


if __name__ == "__main__":
    main()
