"""The pid lock, ``<program>.pid``: the pid and a newline. If it exists, the program should be running.

Two files stand beside it. ``.<program>.lock``, in the program's directory, excludes other processes while one acts on
the program: it belongs to the program and not to a state directory, so that it works between all users and configs. It
is never removed: a lock on a removed file excludes nobody. ``.<program>.state``, beside the pid lock, holds what a pid
alone does not tell: the identity of the process, and how often it was relaunched lately.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from restart_guard import clock
from restart_guard.errors import BusyError, GuardError
from restart_guard.host.family import Family
from restart_guard.host.identity import Identity
from restart_guard.programs.crashes import Crashes
from restart_guard.programs.health import HealthRecord

_LARGEST = 64
_ACTION_S = 120.0  # longer than a start or a stop usually takes
_MAKING_S = 0.2  # between the creation of a lock file and the moment when all can read it


class Record(msgspec.Struct, frozen=True):
    """The facts about a target that are kept between runs, within one boot.

    ``process`` runs the program; it is of ``family``, the last launch. ``ticket``: the next launch will carry it, so
    that a launch that is interrupted before it is recorded is found again. ``starting``: a start is under way, by hand
    or because this host leads now; a tick or a watch completes it. ``is_lock_shared``: the program writes a pid file of
    its own where the pid lock is.
    """

    boot: str
    process: Identity | None = None
    family: Family | None = None
    starting: bool = False
    is_lock_shared: bool = False
    ticket: str = ""
    crashes: Crashes = Crashes()
    health: HealthRecord = HealthRecord()


class PidLock:
    """The files of one program; ``pid_file`` stands in for ``<program>.pid``."""

    def __init__(self, program: Path, pid_file: Path | None = None) -> None:
        self._program = program
        self._has_folder = pid_file is None
        self._last: tuple[tuple[int, ...], Record] | None = None  # as last read, and which version of the file that was
        self.path = pid_file or program.with_name(program.name + ".pid")
        self.guard_path = program.with_name(f".{program.name}.lock")
        self.record_path = self.path.with_name(f".{self.path.name.removesuffix('.pid')}.state")

    def is_there(self) -> bool:
        return os.path.lexists(self.path)

    def read(self) -> int | None:
        """The pid; None for a lock that is missing, unreadable or no number: then the program is searched for."""
        try:
            text = _read(self.path, _LARGEST).strip()
        except OSError:
            return None
        return int(text) if text.isdigit() and 0 < int(text) < 2**22 + 1 else None

    def write(self, pid: int, *, sync: bool = True) -> None:
        """Write it in one step: a reader sees the old or the new content as a whole. Raises GuardError.

        ``sync`` brings it to the disk, which a new intent needs; a relaunch only changes the number.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _replace(self.path, f"{pid}\n".encode(), sync=sync)
        except OSError as error:
            raise GuardError(f"The pid lock {self.path} cannot be written: {error.strerror}.") from error

    def remove(self) -> None:
        """Raises GuardError."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise GuardError(f"The pid lock {self.path} cannot be removed: {error.strerror}.") from error

    @contextmanager
    def held(self, *, wait_s: float) -> Iterator[None]:
        """Exclude everybody else from acting on the program. Raises BusyError after the wait, GuardError."""
        fd = self._acquire(clock.monotonic() + wait_s)
        try:
            yield
        finally:
            os.close(fd)

    def _acquire(self, deadline: float) -> int:
        """A descriptor that holds the lock: of the lock file or, for a user who may not write the program's directory
        while there is no lock file yet, of the program itself.

        So that two users never hold one each, a process that has locked the program looks again whether the file has
        appeared, and a process that locks a new file waits for those who had locked the program before, then marks the
        file.
        """
        while True:
            fd = self._open_file(deadline)
            own_file = fd is not None
            if fd is None:
                fd = self._open_program()
            try:
                self._lock(fd, deadline)
                if own_file and _is_new(fd):
                    self._await_program(deadline)
            except BaseException:
                os.close(fd)
                raise
            if own_file or not os.path.lexists(self.guard_path):
                return fd
            os.close(fd)

    def _open_file(self, deadline: float) -> int | None:
        """The lock file, created if it is missing; None if it is missing and we may not create it."""
        patience = max(deadline, clock.monotonic() + _MAKING_S)
        while True:
            try:
                return _open_to_lock(self.guard_path)
            except FileNotFoundError:
                pass
            except OSError as error:
                # With a strict umask it is unreadable until its creator makes it readable, a moment later.
                if clock.monotonic() >= patience:
                    raise GuardError(f"The lock {self.guard_path} cannot be opened: {error.strerror}.") from error
                clock.sleep(0.01)
                continue
            try:
                fd = os.open(self.guard_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            except OSError:
                # Another user may have created it since we looked: look again before we say that it is missing.
                if not os.path.lexists(self.guard_path):
                    return None
                continue
            with suppress(OSError):
                os.fchmod(fd, 0o644)  # whatever the umask: other users must be able to meet here
            return fd

    def _open_program(self) -> int:
        """The program itself, for a user who may not write its directory; then the pid_file is elsewhere."""
        try:
            # Not for writing: a script that is open for writing cannot be executed (ETXTBSY, execve(2)).
            return os.open(self._program, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            text = f"The lock {self.guard_path} cannot be made, nor the program locked: {error.strerror}."
            raise GuardError(text) from error

    def _await_program(self, deadline: float) -> None:
        """Wait for a user who had locked the program before there was a lock file; then mark the file as not new."""
        with suppress(OSError):
            fd = os.open(self._program, os.O_RDONLY | os.O_NONBLOCK)
            try:
                self._lock(fd, deadline)
            except BusyError:
                raise
            except GuardError:
                pass  # nobody can lock it, as on NFS
            finally:
                os.close(fd)
        with suppress(OSError):  # only its owner can
            fd = os.open(self.guard_path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                os.write(fd, b"\n")
            finally:
                os.close(fd)

    def _lock(self, fd: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno == errno.EBADF:
                    text = f"The lock {self.guard_path} cannot be taken: on NFS only who may write it can lock it."
                    raise GuardError(text) from error
                if error.errno != errno.EWOULDBLOCK:
                    raise GuardError(f"The lock {self.guard_path} cannot be taken: {error.strerror}.") from error
                if clock.monotonic() >= deadline:
                    text = f"Another process is acting on {self.path.stem} right now; nothing was changed."
                    raise BusyError(text) from error
                clock.sleep(0.02)
            else:
                return

    def recorded(self, boot: str) -> Record:
        """The record; an empty one if there is none, or only one of another boot."""
        with suppress(OSError, ValueError, msgspec.MsgspecError):  # ValueError: bytes that are no UTF-8
            status = os.stat(self.record_path)  # noqa: PTH116 (in the path of a relaunch)
            version = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            if self._last is None or self._last[0] != version:
                self._last = (version, _DECODER.decode(_read(self.record_path, 4096)))
            record = self._last[1]
            if record.boot == boot and (record.process is None or _is_sane(record.process, boot)):
                return record
        return Record(boot)

    def record(self, record: Record) -> bool:
        """Write the record; only while the lock is held. False if it could not be written: then the program is searched
        for.

        Never synced: after a power cut it would belong to another boot anyway. On a full disk the old one is
        overwritten in place, which needs no space.
        """
        content = msgspec.json.encode(record) + b"\n"
        try:
            if not self._has_folder:
                self.record_path.parent.mkdir(parents=True, exist_ok=True)
                self._has_folder = True
            _replace(self.record_path, content, sync=False)
        except OSError:
            with suppress(OSError), self.record_path.open("r+b", buffering=0) as file:
                file.write(content)
                file.truncate()
                return True
            return False
        return True

    def forget(self) -> None:
        """Remove the record. Raises GuardError."""
        try:
            self.record_path.unlink(missing_ok=True)
        except OSError as error:
            raise GuardError(f"{self.record_path} cannot be removed: {error.strerror}.") from error

    def recorded_by(self) -> int | None:
        """The uid of the record's owner."""
        with suppress(OSError):
            return self.record_path.stat().st_uid
        return None


def _open_to_lock(path: Path) -> int:
    """Open a lock file. On NFS flock(2) needs a descriptor that is open for writing; elsewhere a file of another user,
    which we may only read, will do. Raises OSError."""
    flags = os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        return os.open(path, os.O_RDWR | flags)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(path, os.O_RDONLY | flags)


def _is_new(fd: int) -> bool:
    """Whether somebody who found no lock file may still act on the program.

    A program may lock its own file for as long as it runs (``flock -n "$0"``), so this is asked only for as long as an
    action may take.
    """
    status = os.fstat(fd)
    return status.st_size == 0 and abs(clock.now().timestamp() - status.st_mtime) < _ACTION_S


def _is_sane(process: Identity, boot: str) -> bool:
    """Pid 0 means a group and pid 1 is init: neither is ever a target."""
    return 1 < process.pid <= 2**22 and process.started >= 0 and process.boot == boot


_DECODER = msgspec.json.Decoder(Record)


def _read(path: Path, size: int) -> bytes:
    """The beginning of a file, which may be anything, also a FIFO. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)


def _replace(path: Path, content: bytes, *, sync: bool) -> None:
    """Write a file's new content beside it and rename it, so that nobody sees half of it. Raises OSError."""
    new = f"{path}.new"  # one fixed name, so that a kill leaves no litter: the writer holds the lock
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        try:
            os.write(fd, content)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(new, path)  # noqa: PTH105 (in the path of a relaunch, where Path costs as much as the call)
    except OSError:
        with suppress(OSError):
            os.unlink(new)  # noqa: PTH108
        raise
