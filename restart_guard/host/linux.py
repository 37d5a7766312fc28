"""The process table of a Linux host, by /proc and pidfds.

A pid is no identity, since the kernel gives it out again: pid, start time (field 22 of /proc/PID/stat, in ticks since
boot, proc(5)) and the boot's id together are one. A signal goes through a pidfd that was opened before the identity was
verified: a pidfd never comes to mean another process (pidfd_open(2)).

Where pidfds cannot be had (Linux before 5.3, or a filter of system calls), the open directory /proc/PID stands for the
process: reads through it fail once that has ended. Its state is then read through it 50 times a second, and its
identity verified through it right before kill(2).
"""

import errno
import fcntl
import os
import select
import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from restart_guard import clock
from restart_guard.errors import GuardError
from restart_guard.host.files import user_name
from restart_guard.host.identity import Facts, Identity, Look

assert sys.platform == "linux"  # noqa: S101 (tells type checkers of other platforms to skip this file)

_PROC = "/proc"
_PR_SET_CHILD_SUBREAPER = 36
_PIDFD_SEND_SIGNAL, _PIDFD_OPEN = 424, 434  # the same on all architectures but alpha
_PIDFD_GET_INFO, _PIDFD_INFO_EXIT = 0xC040FF0B, 1 << 3  # _IOWR(0xFF, 11, struct pidfd_info) of 64 bytes
_MOST_ENDED = 64
_LOOK_S = 0.02
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RLIMIT_LOCKS = 10  # Python has no name for it
_LONGEST_POLL_MS = 2**31 - 1  # poll(2) takes an int: 24 days


@cache
def boot_id() -> str:
    try:
        return _read("sys/kernel/random/boot_id").decode().strip()
    except OSError as error:
        raise GuardError("Programs cannot be guarded here: /proc is not mounted.") from error


def _read(name: str) -> bytes:
    """The content of a file of /proc, without the cost of a buffered reader: a tick may read thousands."""
    fd = os.open(f"{_PROC}/{name}", os.O_RDONLY)
    try:
        parts = [os.read(fd, 65536)]
        while len(parts[-1]) == 65536:
            parts.append(os.read(fd, 65536))
        return b"".join(parts)
    finally:
        os.close(fd)


def facts(pid: int) -> Facts | None:
    """The facts about a pid; None if there is no such process. Raises PermissionError if we may not look.

    If /proc is mounted hidepid=2, another user's process is not visible there, but kill(2) still finds it.
    """
    try:
        content = _read(f"{pid}/stat")
    except (FileNotFoundError, ProcessLookupError) as error:
        if _exists(pid):
            raise PermissionError(errno.EACCES, "this process is hidden from us") from error
        return None
    return _parsed(pid, content)


def _parsed(pid: int, content: bytes) -> Facts:
    """The content of /proc/PID/stat (proc(5))."""
    # The name stands in parentheses and may hold anything, also parentheses and newlines.
    name, _, rest = content.decode(errors="replace").partition("(")[2].rpartition(")")
    field = rest.split()
    # A main thread that has exited before the others (pthread_exit) looks like a zombie: num_threads shows it.
    state = "S" if field[0] == "Z" and int(field[17]) > 1 else field[0]
    return Facts(pid, name, state, int(field[1]), int(field[2]), int(field[3]), int(field[19]))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # It may have been started, or may have ended, between the two looks.
    return not Path(f"{_PROC}/{pid}/stat").exists()


@cache
def has_pidfds() -> bool:
    """Whether the kernel lets us use pidfds."""
    try:
        os.close(_pidfd_open(os.getpid()))
    except OSError as error:
        # Any other error, such as too many open files, says nothing about the next time.
        return error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES)
    return True


def _pidfd_open(pid: int) -> int:
    """pidfd_open(2), also in a Python that was built with the headers of an old kernel. Raises OSError."""
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    return _syscall(_PIDFD_OPEN, pid, 0)


def _pidfd_send_signal(fd: int, number: int) -> None:
    """pidfd_send_signal(2), likewise. Raises OSError."""
    if hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(fd, number)
    else:
        _syscall(_PIDFD_SEND_SIGNAL, fd, number, None, 0)


def _syscall(*arguments: int | None) -> int:
    # Only such a Python pays for this import.
    import ctypes

    result: int = _libc().syscall(*(word if word is None else ctypes.c_long(word) for word in arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


@cache
def _libc() -> Any:
    # A tick that launches nothing must not pay for it.
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def identity(pid: int) -> Identity | None:
    """The identity of a living process; None if it has ended. Raises PermissionError."""
    process = facts(pid)
    return None if process is None or process.dead else Identity(pid, process.started, boot_id())


def everybody() -> Iterator[Facts]:
    """All processes that we may see, in one scan."""
    with os.scandir(_PROC) as entries:  # closed even if the caller stops early
        for entry in entries:
            if entry.name.isdecimal():
                with suppress(OSError, IndexError, ValueError):
                    process = facts(int(entry.name))
                    if process is not None:
                        yield process


def look(pid: int) -> Look:
    """The command line, executable and working directory of a process.

    Raises FileNotFoundError, ProcessLookupError or PermissionError.
    """
    argv = [os.fsdecode(word) for word in _read(f"{pid}/cmdline").split(b"\0")[:-1]]
    # Kernel threads have no arguments, and their links cannot be read.
    return Look(argv, _link(pid, "exe"), _link(pid, "cwd")) if argv else Look((), None, None)


def _link(pid: int, name: str) -> Path | None:
    try:
        return Path(os.readlink(f"{_PROC}/{pid}/{name}"))  # noqa: PTH115 (Path.readlink costs twice as much)
    except PermissionError:
        return None


def resident(pid: int) -> int:
    """The memory of a process that is in RAM, in bytes; what it shares with others is counted in each. 0 if it is
    gone."""
    try:
        return int(_read(f"{pid}/statm").split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def environment_entry(pid: int, name: str) -> str | None:
    """The value of this variable when the process was started; None if it had none, or if we may not look."""
    return environment(pid, name).get(name)


def environment(pid: int, prefix: str) -> dict[str, str]:
    """The variables whose names begin so, when the process was started; none of them if we may not look."""
    try:
        content = _read(f"{pid}/environ")
    except OSError:
        return {}
    if os.fsencode(prefix) not in content:
        return {}
    entries = (os.fsdecode(entry).partition("=") for entry in content.split(b"\0"))
    return {name: value for name, _, value in entries if name.startswith(prefix)}


def executable(pid: int) -> str | None:
    """The file that a process runs; None if it has ended, or if we may not look."""
    with suppress(OSError):
        link = _link(pid, "exe")
        return None if link is None else str(link)
    return None


def shares_namespaces(pid: int) -> bool:
    """Whether a process has our pid and mount namespaces: that of a container does not. Where that may not be seen, as
    of another user's process, by the pid namespaces in its status."""
    try:
        return all(
            os.stat(f"{_PROC}/{pid}/ns/{name}").st_ino == os.stat(f"{_PROC}/self/ns/{name}").st_ino  # noqa: PTH116
            for name in ("pid", "mnt")
        )
    except PermissionError:
        with suppress(OSError):
            # NSpid: the pid in each namespace from ours inwards, so one number for a process of our own.
            for line in _read(f"{pid}/status").splitlines():
                if line.startswith(b"NSpid:"):
                    return len(line.split()) == 2
        return True
    except OSError:
        return False


def inherited_number(pid: int) -> int | None:
    """The number that ``give_number`` gave to a process or to an ancestor of it; None if there is none."""
    with suppress(OSError):
        for line in _read(f"{pid}/limits").splitlines():
            if line.startswith(b"Max file locks"):
                word = line.split()[3]
                return int(word) if word.isdigit() else None
    return None


@contextmanager
def give_number(number: int) -> Iterator[None]:
    """Children that are started meanwhile have this number, and so have their descendants, whatever they do to their
    session, command line and environment.

    It is the soft limit RLIMIT_LOCKS, which Linux has kept without any effect since 2.4.25 (getrlimit(2)), and which
    /proc/PID/limits shows to everybody. Only for one thread at a time: a limit is the process's.
    """
    # Only who launches something pays for this import.
    import resource

    limits = resource.getrlimit(_RLIMIT_LOCKS)
    try:
        resource.setrlimit(_RLIMIT_LOCKS, (number, limits[1]))
    except (OSError, ValueError, OverflowError):  # a hard limit below it; session and environment remain
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(_RLIMIT_LOCKS, limits)


def has_children() -> bool:
    """Whether this process has any child; costs almost nothing."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def become_subreaper() -> None:
    """Orphans of our children become our children from now on, and not those of init."""
    _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def owner(pid: int) -> int | None:
    """The real uid of a process, which a program that is set-user-ID does not change; None if there is no such process,
    or if we may not look."""
    with suppress(OSError):
        for line in _read(f"{pid}/status").splitlines():
            if line.startswith(b"Uid:"):
                return int(line.split()[1])
    return None


def lock_holder(fd: int) -> str:
    """`` (pid N of user NAME)``: who has locked the file behind a descriptor, if the kernel shows it (proc(5),
    /proc/locks). By the inode alone: on btrfs and overlays stat(2) gives another device than that file names."""
    with suppress(OSError, ValueError, IndexError):
        inode = os.fstat(fd).st_ino
        for line in _read("locks").decode().splitlines():
            word = line.split()
            if word[1] == "FLOCK" and int(word[5].rpartition(":")[2]) == inode and int(word[4]) > 0:
                uid = owner(int(word[4]))
                of = "" if uid is None else f" of user {user_name(uid)}"
                return f" (pid {word[4]}{of})"
    return ""


def survives(pid: int, number: int) -> bool:
    """Whether this process catches or ignores a signal that would end it by default.

    Raises PermissionError or FileNotFoundError.
    """
    masks = dict(line.split(":\t", 1) for line in _read(f"{pid}/status").decode(errors="replace").splitlines())
    return any(int(masks[name], 16) & 1 << number - 1 for name in ("SigCgt", "SigIgn"))


def uptime_s(process: Identity) -> float:
    """Seconds since the start of a process, time in suspend included."""
    return clock.boottime() - process.started / os.sysconf("SC_CLK_TCK")


@contextmanager
def _opened(process: Identity) -> Iterator[int | None]:
    """A descriptor of exactly this process, or None if it has ended: opened first, then verified."""
    fd = _open(process)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _open(process: Identity) -> int | None:
    try:
        fd = _pidfd_open(process.pid) if has_pidfds() else os.open(f"{_PROC}/{process.pid}", os.O_RDONLY)
    except OSError as error:
        # EINVAL: a process that is just dying.
        if error.errno not in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            raise
        return None
    same = False
    try:
        same = identity(process.pid) == process if has_pidfds() else _lives(fd, process)
    finally:
        if not same:
            os.close(fd)
    return fd if same else None


def _lives(fd: int, process: Identity) -> bool:
    """Whether the process of an open directory of /proc is this one, and alive."""
    try:
        stat = os.open("stat", os.O_RDONLY, dir_fd=fd)
        try:
            facts_now = _parsed(process.pid, os.read(stat, 4096))
        finally:
            os.close(stat)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return facts_now.started == process.started and not facts_now.dead


def send(process: Identity, number: int, uids: Collection[int] | None = None) -> bool:
    """Signal exactly this process; False if it has ended. Raises PermissionError, also if it is of no user of these."""
    with _opened(process) as fd:
        if fd is None:
            return False
        if uids is not None and owner(process.pid) not in (*uids, None):
            raise PermissionError(errno.EPERM, "it belongs to another user")
        with suppress(ProcessLookupError):
            if has_pidfds():
                _pidfd_send_signal(fd, number)
            elif _lives(fd, process):
                os.kill(process.pid, number)
            return True
    return False


def wait(process: Identity, seconds: float) -> bool:
    """Wait until this process has ended. False if the time is up first."""
    with _opened(process) as fd:
        if fd is None:
            return True
        if has_pidfds():
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return bool(poll.poll(min(max(0, round(seconds * 1000)), _LONGEST_POLL_MS)))
        deadline = clock.monotonic() + seconds
        while _lives(fd, process):
            left_s = deadline - clock.monotonic()
            if left_s <= 0:
                return False
            clock.sleep(min(left_s, _LOOK_S))
        return True


class Deaths:
    """Waits for the end of many processes at once, and for other descriptors; with pidfds without waking up in
    between."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._fds: dict[int, Identity] = {}
        self._ended: dict[Identity, int] = {}

    def close(self) -> None:
        for fd in (*self._fds, *self._ended.values()):
            os.close(fd)
        self._fds.clear()
        self._ended.clear()

    def listen(self, fd: int) -> None:
        """Also wake up when this descriptor can be read."""
        self._poll.register(fd, select.POLLIN)

    def add(self, process: Identity) -> bool:
        """Also wait for this process; False if it has ended already. Raises PermissionError."""
        fd = _open(process)
        if fd is None:
            return False
        self._fds[fd] = process
        if has_pidfds():
            self._poll.register(fd, select.POLLIN)
        return True

    def remove(self, process: Identity) -> None:
        for fd in [fd for fd, process_of_fd in self._fds.items() if process_of_fd == process]:
            self._forget(fd)

    def wait(self, seconds: float | None) -> tuple[list[Identity], list[int]]:
        """Returns the processes that have ended, each one once, and the other descriptors that can be read."""
        deadline = None if seconds is None else clock.monotonic() + seconds
        while True:
            left_s = None if deadline is None else max(0.0, deadline - clock.monotonic())
            looks = bool(self._fds) and not has_pidfds()
            ready = self._ready(min(_LOOK_S, left_s if left_s is not None else _LOOK_S) if looks else left_s)
            if looks:
                ready += [fd for fd, process in self._fds.items() if not _lives(fd, process)]
            if ready or not looks or left_s == 0:
                break
        ended = [(fd, self._fds[fd]) for fd in ready if fd in self._fds]
        others = [fd for fd in ready if fd not in self._fds]
        for fd, process in ended:
            self._keep_to_ask(process, fd)
        return [process for _, process in ended], others

    def exit_status(self, process: Identity) -> int | None:
        """The exit status of a process that ``wait`` has told of, or the negative number of the signal; once. None
        where nobody can know it: before Linux 6.15, or as long as its parent has not reaped it.

        PIDFD_GET_INFO with PIDFD_INFO_EXIT, see include/uapi/linux/pidfd.h.
        """
        fd = self._ended.pop(process, None)
        if fd is None:
            return None
        try:
            answer = fcntl.ioctl(fd, _PIDFD_GET_INFO, _PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder) + bytes(56))
        except OSError:
            return None
        finally:
            os.close(fd)
        # struct pidfd_info: a mask of 64 bits comes first, the status as of wait(2) last.
        is_known = int.from_bytes(answer[:8], sys.byteorder) & _PIDFD_INFO_EXIT
        return os.waitstatus_to_exitcode(int.from_bytes(answer[60:64], sys.byteorder)) if is_known else None

    def _keep_to_ask(self, process: Identity, fd: int) -> None:
        if not has_pidfds():
            self._forget(fd)
            return
        self._poll.unregister(fd)
        del self._fds[fd]
        while len(self._ended) >= _MOST_ENDED:  # nobody has asked
            os.close(self._ended.pop(next(iter(self._ended))))
        self._ended[process] = fd

    def _ready(self, seconds: float | None) -> list[int]:
        longest = None if seconds is None else min(max(0, seconds * 1000), _LONGEST_POLL_MS)
        # Rounded up: a wait that ends a fraction before its deadline would spin until then.
        return [fd for fd, _ in self._poll.poll(None if longest is None else -int(-longest // 1))]

    def _forget(self, fd: int) -> None:
        if has_pidfds():
            self._poll.unregister(fd)
        del self._fds[fd]
        os.close(fd)
