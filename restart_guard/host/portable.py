"""The process table of a host without /proc and pidfds, such as macOS, through psutil: the same functions as ``linux``.

Between the verification of an identity and its signal there is a moment in which the pid could come to mean another
process, and the end of a process is noticed by looking every so often.
"""

import os
import select
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

from restart_guard import clock
from restart_guard.host.identity import Facts, Identity, Look

_EVERY_S = 0.05
_STATES = {psutil.STATUS_ZOMBIE: "Z", psutil.STATUS_DEAD: "X", psutil.STATUS_STOPPED: "T"}


@cache
def boot_id() -> str:
    """Start times are absolute here, so one boot cannot be confused with another."""
    return "psutil"


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turns psutil's errors into those of the system calls."""
    try:
        yield
    except psutil.AccessDenied as error:
        raise PermissionError(1, "another user's process") from error
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(3, "no such process") from error


def facts(pid: int) -> Facts | None:
    """The facts about a pid; None if there is no such process. Raises PermissionError."""
    try:
        with _translate_errors():
            return _facts(psutil.Process(pid))
    except ProcessLookupError:
        return None


def _facts(process: psutil.Process) -> Facts:
    pid = process.pid
    state = _STATES.get(process.status(), "S")
    started = round(process.create_time() * 1000)
    try:
        group, session = os.getpgid(pid), os.getsid(pid)
    except OSError:
        group, session = -1, -1
    return Facts(pid, process.name(), state, process.ppid(), group, session, started)


def identity(pid: int) -> Identity | None:
    """The identity of a living process; None if it has ended. Raises PermissionError."""
    process = facts(pid)
    return None if process is None or process.dead else Identity(pid, process.started, boot_id())


def everybody() -> Iterator[Facts]:
    """All processes that we may see, in one scan."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            yield _facts(process)


def look(pid: int) -> Look:
    """The command line, executable and working directory of a process. Raises ProcessLookupError or PermissionError."""
    with _translate_errors():
        process = psutil.Process(pid)
        argv = process.cmdline()
    return Look(argv, _path(process.exe), _path(process.cwd))


def _path(get: Callable[[], str]) -> Path | None:
    try:
        return Path(get())
    except (psutil.AccessDenied, psutil.ZombieProcess):
        return None
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(3, "no such process") from error


def resident(pid: int) -> int:
    """The memory of a process that is in RAM, in bytes; what it shares with others is counted in each. 0 if it is
    gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def environment_entry(pid: int, name: str) -> str | None:
    """The value of this variable when the process was started; None if it had none, or if we may not look."""
    return environment(pid, name).get(name)


def environment(pid: int, prefix: str) -> dict[str, str]:
    """The variables whose names begin so, when the process was started; none of them if we may not look."""
    with suppress(psutil.Error, OSError):
        return {name: value for name, value in psutil.Process(pid).environ().items() if name.startswith(prefix)}
    return {}


def has_pidfds() -> bool:
    """There are none here."""
    return False


def executable(pid: int) -> str | None:
    """The file that a process runs; None if it has ended, or if we may not look."""
    with suppress(psutil.Error, OSError):
        return psutil.Process(pid).exe()
    return None


def shares_namespaces(_pid: int) -> bool:
    """There are no namespaces here."""
    return True


def inherited_number(_pid: int) -> int | None:
    """There is no such number here."""
    return None


@contextmanager
def give_number(_number: int) -> Iterator[None]:
    """There is no such number here."""
    yield


def has_children() -> bool:
    """It may have some."""
    return True


def become_subreaper() -> None:
    """Orphans stay those of init here."""


def owner(pid: int) -> int | None:
    """The real uid of a process; None if there is no such process."""
    with suppress(psutil.Error, OSError):
        return int(psutil.Process(pid).uids().real)
    return None


def lock_holder(fd: int) -> str:
    """Who has locked a file cannot be seen here."""
    del fd
    return ""


def survives(pid: int, number: int) -> bool:
    """Signal dispositions cannot be read here: the config is trusted."""
    return pid > 0 and number > 0


def uptime_s(process: Identity) -> float:
    """Seconds since the start of a process."""
    return clock.now().timestamp() - process.started / 1000


def send(process: Identity, number: int, uids: Collection[int] | None = None) -> bool:
    """Signal exactly this process; False if it has ended. Raises PermissionError, also if it is of no user of these."""
    if identity(process.pid) != process:
        return False
    if uids is not None and owner(process.pid) not in (*uids, None):
        raise PermissionError(1, "it belongs to another user")
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
        return True
    return False


def wait(process: Identity, seconds: float) -> bool:
    """Wait until this process has ended. False if the time is up first."""
    deadline = clock.monotonic() + seconds
    while identity(process.pid) == process:
        left = deadline - clock.monotonic()
        if left <= 0:
            return False
        clock.sleep(min(left, _EVERY_S))
    return True


class Deaths:
    """Waits for the end of many processes at once, and for other descriptors."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._living: set[Identity] = set()

    def close(self) -> None:
        self._living.clear()

    def listen(self, fd: int) -> None:
        """Also wake up when this descriptor can be read."""
        self._fds.append(fd)

    def add(self, process: Identity) -> bool:
        """Also wait for this process; False if it has ended already. Raises PermissionError."""
        if identity(process.pid) != process:
            return False
        self._living.add(process)
        return True

    def remove(self, process: Identity) -> None:
        self._living.discard(process)

    def wait(self, seconds: float | None) -> tuple[list[Identity], list[int]]:
        """Returns the processes that have ended, each one once, and the other descriptors that can be read."""
        deadline = clock.monotonic() + (sys.maxsize if seconds is None else seconds)
        while True:
            ended = [process for process in self._living if identity(process.pid) != process]
            left = 0.0 if ended else max(0.0, min(_EVERY_S, deadline - clock.monotonic()))
            ready = select.select(self._fds, [], [], left)[0]
            if ended or ready or clock.monotonic() >= deadline:
                self._living -= set(ended)
                return ended, ready

    def exit_status(self, _process: Identity) -> int | None:
        """The exit status of a process that ``wait`` has told of: nobody can know it here."""
        return None
