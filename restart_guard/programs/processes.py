"""The processes of a target: which they are, launching, signalling, waiting for their end."""

import os
import signal
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from restart_guard import clock
from restart_guard.host import children, process_table
from restart_guard.host.family import Family, is_fence, members
from restart_guard.host.files import Account, Files
from restart_guard.host.identity import Facts, Identity

if TYPE_CHECKING:
    from subprocess import Popen


def is_alive(process: Identity) -> bool:
    """Whether exactly this process is alive. Raises PermissionError if we may not look."""
    return process_table.identity(process.pid) == process


def _lives(process: Facts) -> bool:
    now = process_table.facts(process.pid)
    return now is not None and now.started == process.started and not now.dead


def family_of(family: Family) -> list[Facts]:
    """The living processes of a family."""
    return members({"it": family})["it"]


def has_group(process: Identity) -> bool:
    """Whether anything is left of the process group that an ended process led; costs almost nothing. A zombie counts,
    since kill(2) finds it too."""
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def behind_fence(process: Identity) -> Identity:
    """The program itself: the oldest child of its fence, if there is a fence."""
    if not is_fence(process.pid):
        return process
    # A child that has not yet executed the program still looks like the fence.
    behind = [
        member
        for member in process_table.everybody()
        if not member.dead and member.parent == process.pid and not is_fence(member.pid)
    ]
    first = min(behind, key=lambda member: member.started, default=None)
    return process if first is None else Identity(first.pid, first.started, process.boot)


class Launch(NamedTuple):
    """Options of a launch; ``directory`` is its working directory, ``umask`` is -1 for ours.

    ``user`` is another account, for root only. ``ticket`` is handed on to all its descendants. ``files`` opens the log.
    """

    argv: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    log_file: Path | None
    umask: int = -1
    user: Account | None = None
    ticket: str = ""
    files: Files = Files()


def prepare() -> None:
    """Make this process ready to launch programs that inherit nothing of ours; called once, by the main thread.

    They get default signal dispositions: a signal that we ignore (under nohup, say) would be ignored by them too, so a
    handler that does nothing replaces it, and is reset to the default at exec (signal(7)). Blocked signals are
    inherited too (sigprocmask(2)), and so is every descriptor that our own parent left open for us; those that Python
    opens are not (PEP 446).
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 (a descriptor is not a path)
        if int(name) > 2:
            with suppress(OSError):
                os.set_inheritable(int(name), False)  # noqa: FBT003 (it takes no keyword)


def _ignore(_number: int, _frame: object) -> None:
    """Ignores a signal as SIG_IGN does, but for ourselves only."""


@cache
def _become_subreaper() -> None:
    process_table.become_subreaper()


def launch(spec: Launch) -> "Popen[bytes]":
    """Start a program in a session of its own that holds descriptors 0 to 2 only and nothing of ours.

    Raises OSError. ``prepare`` must have been called.
    """
    # An idle tick launches nothing, and this is a twentieth of it.
    from subprocess import DEVNULL, STDOUT, Popen

    output: int | None = None
    try:
        if spec.log_file is not None:
            output = spec.files.append(spec.log_file)
            os.set_blocking(output, True)
        uid, gid, groups = spec.user or (None, None, None)
        _become_subreaper()
        return children.start(
            lambda: Popen(
                spec.argv,
                cwd=spec.directory,
                env=spec.environment,
                stdin=DEVNULL,
                stdout=DEVNULL if output is None else output,
                stderr=STDOUT,
                close_fds=False,  # after prepare() there is nothing to close, and searching would take time
                start_new_session=True,
                umask=spec.umask,
                user=uid,
                group=gid,
                extra_groups=groups,
            ),
            spec.ticket,
        )
    finally:
        if output is not None:
            os.close(output)


def signal_all(processes: Collection[Facts], number: int, family: Family) -> None:
    """Signal these processes of a family, also stopped ones, but for those that we may not signal."""
    for process in processes:
        with suppress(PermissionError):
            send(identity_of(process), number, family.uid)


def send(process: Identity, number: int, uid: int) -> None:
    """Signal a process of this account, also a stopped one. Raises PermissionError, also if it is another user's."""
    # A program that was launched may have become root (sudo); root's may have become any user.
    uids = (uid, 0) if uid > 0 else None
    # A stopped process (SIGSTOP, Ctrl-Z) receives only KILL before it is continued (signal(7)).
    if process_table.send(process, number, uids) and number != signal.SIGKILL:
        process_table.send(process, signal.SIGCONT, uids)


def identity_of(process: Facts) -> Identity:
    return Identity(process.pid, process.started, process_table.boot_id())


def left_of(family: Family, known: Collection[Facts]) -> list[Facts]:
    """The living processes of a family, and those of these that still live: one that has left its session and its
    parent is not found anew."""
    left = {process.pid: process for process in known if _lives(process)}
    return list((left | {process.pid: process for process in family_of(family)}).values())


def wait_for_all(family: Family, known: Collection[Facts], seconds: float) -> list[Facts]:
    """Wait until a family and these processes have ended. Returns those that are left then."""
    deadline = clock.monotonic() + seconds
    while True:
        left = left_of(family, known)
        remaining = deadline - clock.monotonic()
        if not left or remaining <= 0:
            return left
        process_table.wait(identity_of(left[0]), remaining)
