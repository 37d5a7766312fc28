"""The pid lock, ``<program>.pid``: the pid and a newline. If it exists, the program should be running.

Two files stand beside it. ``.<program>.lock``, in the program's directory, excludes other processes while one acts on
the program: it belongs to the program and not to a state directory, so that it works between all configs of the
accounts that may act on the program. It is never removed: a lock on a removed file excludes nobody.
``.<program>.state``, beside the pid lock, holds what a pid alone does not tell: the identity of the process, and how
often it was relaunched lately. A copy of that is kept in the state directory, where the program's account cannot remove
it if it is not ours.

Every file vouches for processes of its own owner only, and root's for all.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import msgspec

from restart_guard import clock
from restart_guard.errors import BusyError, GuardError
from restart_guard.host import process_table
from restart_guard.host.family import Family
from restart_guard.host.files import Files, user_name
from restart_guard.host.identity import Identity
from restart_guard.lock import is_still_at
from restart_guard.programs.crashes import Crashes
from restart_guard.programs.health import HealthRecord

_LARGEST = 64
_LARGEST_RECORD = 4096


class Record(msgspec.Struct, frozen=True):
    """The facts about a target that are kept between runs, within one boot.

    ``process`` runs the program; it is of ``family``, the last launch. ``ticket``: the next launch will carry it, so
    that a launch that is interrupted before it is recorded is found again. ``starting``: a start is under way, by hand
    or because this host leads now; a tick or a watch completes it. ``is_lock_shared``: the program writes a pid file of
    its own where the pid lock is. ``heavy_looks``: so often in a row it used more memory than it may, last at
    ``heavy_at``, in seconds since boot.
    """

    boot: str
    process: Identity | None = None
    family: Family | None = None
    starting: bool = False
    is_lock_shared: bool = False
    ticket: str = ""
    crashes: Crashes = Crashes()
    health: HealthRecord = HealthRecord()
    heavy_looks: int = 0
    heavy_at: float = 0.0


class PidLock:
    """The files of one program; ``pid_file`` stands in for ``<program>.pid``.

    ``uid`` is the program's account. ``files`` do the work in its folder, ``pid_files`` in that of ``pid_file``.
    ``memory`` is the folder of the copies.
    """

    def __init__(
        self,
        program: Path,
        pid_file: Path | None = None,
        *,
        memory: Path | None = None,
        uid: int | None = None,
        files: Files = Files(),  # noqa: B008 (immutable)
        pid_files: Files | None = None,
    ) -> None:
        self._files = files
        self._pid_files = pid_files or files
        uid = os.geteuid() if uid is None else uid
        self._has_folder = pid_file is None
        self.path = pid_file or program.with_name(program.name + ".pid")
        self.record_path = self.path.with_name(f".{self.path.name.removesuffix('.pid')}.state")
        self._places = [(program.with_name(f".{program.name}.lock"), self._files)]
        if pid_file is not None:
            # For a program in a folder of somebody else, such as /usr/bin.
            self._places.append((self.path.with_name(f".{self.path.name.removesuffix('.pid')}.lock"), self._pid_files))
        self._shared = _RecordFile(self.record_path, self._pid_files, uid)
        self._kept = None
        if memory is not None:
            self._kept = _RecordFile(memory / _file_name(self.record_path), Files(), uid)

    def is_there(self) -> bool:
        return os.path.lexists(self.path)

    def is_hidden(self) -> bool:
        """Whether we may not look into its folder, so that nobody knows whether it is there."""
        try:
            os.lstat(self.path)
        except PermissionError:
            return True
        except OSError:
            return False
        return False

    def read(self) -> int | None:
        """The pid; None for a lock that is missing, unreadable or no number: then the program is searched for."""
        try:
            text = self._pid_files.read(self.path, _LARGEST).strip()
        except OSError:
            return None
        return int(text) if text.isdigit() and 0 < int(text) < 2**22 + 1 else None

    def owner(self) -> int | None:
        """The uid of who wrote it."""
        with suppress(OSError):
            return os.lstat(self.path).st_uid
        return None

    def write(self, pid: int, *, sync: bool = True) -> None:
        """Write it in one step: a reader sees the old or the new content as a whole. Raises GuardError.

        ``sync`` brings it to the disk, which a new intent needs; a relaunch only changes the number.
        """
        try:
            self._make_folder()
            self._pid_files.replace(self.path, f"{pid}\n".encode(), mode=0o644, sync=sync)
        except OSError as error:
            raise GuardError(f"The pid lock {self.path} cannot be written: {error.strerror}.") from error

    def remove(self) -> None:
        """Raises GuardError."""
        try:
            self._pid_files.remove(self.path)
        except OSError as error:
            raise GuardError(f"The pid lock {self.path} cannot be removed: {error.strerror}.") from error

    @contextmanager
    def held(self, *, wait_s: float) -> Iterator[None]:
        """Exclude everybody else from acting on the program. Raises BusyError after the wait, GuardError."""
        deadline = clock.monotonic() + wait_s
        while True:
            fd, place = self._open_lock()
            try:
                self._lock(fd, deadline)
                if not is_still_at(fd, place):
                    continue  # it was removed while we waited (git clean, rsync --delete): another one is there now
                yield
                return
            finally:
                os.close(fd)

    def _open_lock(self) -> tuple[int, Path]:
        """The lock file and its place: beside the program or, where we may not make or open one, beside the
        ``pid_file``. It is made if it is missing."""
        for place, files in self._places:
            try:
                return _open_or_make(place, files), place
            except OSError as error:
                denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
                if not denied or place is self._places[-1][0]:
                    why = _why(error, place)
                    raise GuardError(f"The lock {place} cannot be opened: {why}.") from error
        raise AssertionError

    def _lock(self, fd: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno == errno.EBADF:
                    text = f"The lock {self._places[0][0]} cannot be taken: on NFS only who may write it can lock it."
                    raise GuardError(text) from error
                if error.errno != errno.EWOULDBLOCK:
                    text = f"The lock {self._places[0][0]} cannot be taken: {error.strerror}."
                    raise GuardError(text) from error
                if clock.monotonic() >= deadline:
                    who = process_table.lock_holder(fd)
                    text = f"Another process{who} is acting on {self.path.stem} right now; nothing was changed."
                    raise BusyError(text) from error
                clock.sleep(0.02)
            else:
                return

    def has_record(self) -> bool:
        return os.path.lexists(self.record_path)

    def recorded(self, boot: str) -> Record:
        """The record: that beside the pid lock, which all who act on the program write, else our copy; an empty one if
        there is none, or only one of another boot.

        Relaunches in a row are the most that either knows: a program may remove or rewrite the file beside it.
        """
        record = self._shared.read(boot)
        kept = self._kept.read(boot) if self._kept is not None else None
        if record is None or kept is None:
            return record or kept or Record(boot)
        if kept.crashes.in_a_row <= record.crashes.in_a_row:
            return record
        return msgspec.structs.replace(record, crashes=kept.crashes)

    def record(self, record: Record) -> bool:
        """Write the record; only while the lock is held. False if neither file could be written: then the program is
        searched for.

        Never synced: after a power cut it would belong to another boot anyway. On a full disk the old one is
        overwritten in place, which needs no space.
        """
        content = msgspec.json.encode(record) + b"\n"
        with suppress(OSError):
            self._make_folder()
        is_kept = self._kept is not None and self._kept.write(record, content, folder_mode=0o700)
        return self._shared.write(record, content) or is_kept

    def forget(self) -> None:
        """Remove the record. Raises GuardError."""
        try:
            self._pid_files.remove(self.record_path)
            if self._kept is not None:
                self._kept.remove()
        except OSError as error:
            raise GuardError(f"{self.record_path} cannot be removed: {error.strerror}.") from error

    def _make_folder(self) -> None:
        if not self._has_folder:
            self._pid_files.make_folder(self.path.parent)
            self._has_folder = True


class _RecordFile:
    """A file with a record. One that ``uid`` wrote counts for processes of that user only, if we are root: root writes
    other people's text into files too (logs), and what a user writes must not make root signal somebody else."""

    def __init__(self, path: Path, files: Files, uid: int) -> None:
        self.path = path
        self._files = files
        self._uid = uid
        self._last: tuple[tuple[int, ...], Record] | None = None  # as last read, and which version of the file that was

    def read(self, boot: str) -> Record | None:
        """None if there is none of this boot that counts."""
        with suppress(OSError, ValueError, msgspec.MsgspecError):  # ValueError: bytes that are no UTF-8
            version = _version(os.lstat(self.path))
            if self._last is None or self._last[0] != version:
                content, status = self._files.read_trusted(self.path, _LARGEST_RECORD)
                self._last = (_version(status), self._checked(_DECODER.decode(content)))
            record = self._last[1]
            if record.boot == boot and (record.process is None or _is_sane(record.process, boot)):
                return record
        return None

    def _checked(self, record: Record) -> Record:
        if record.family is not None:
            record = msgspec.structs.replace(record, family=record.family._replace(uid=self._uid))
        if self._files.account is None or os.geteuid() != 0:
            return record
        named = [one.pid for one in (record.process, record.family and record.family.leader) if one is not None]
        if all(process_table.owner(pid) in (None, self._uid) for pid in named):
            return record
        return msgspec.structs.replace(record, process=None, family=None)

    def write(self, record: Record, content: bytes, *, folder_mode: int | None = None) -> bool:
        """Whether it could be written; with ``folder_mode`` two missing folders are made. It is known then, and need
        not be read before the next launch."""
        try:
            try:
                self._files.replace(self.path, content, mode=0o600, sync=False)
            except FileNotFoundError:
                if folder_mode is None:
                    raise
                for folder in (self.path.parent.parent, self.path.parent):
                    folder.mkdir(mode=folder_mode, parents=True, exist_ok=True)
                self._files.replace(self.path, content, mode=0o600, sync=False)
            self._last = (_version(os.lstat(self.path)), record)
        except OSError:
            self._last = None
            with suppress(OSError):
                self._files.overwrite(self.path, content)
                return True
            return False
        return True

    def remove(self) -> None:
        self._files.remove(self.path)


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _open_or_make(place: Path, files: Files) -> int:
    """Open a lock file for writing, which flock(2) needs on NFS; on a read-only disk for reading. Raises OSError.

    A new one is for its owner alone, or in the folder of a group for the group: whoever may open it may hold it.
    """
    while True:
        try:
            fd = files.open(place, os.O_RDWR)
        except FileNotFoundError:
            try:
                fd = files.make_shared(place)
            except FileExistsError:
                continue  # somebody else was faster
        except OSError as error:
            # One of root's, from before root did this work as the account; on some file systems reading is enough.
            is_roots = error.errno == errno.EACCES and os.lstat(place).st_uid == 0
            if error.errno != errno.EROFS and not is_roots:
                raise
            return files.open(place)
        files.narrow(fd, place)
        return fd


def _why(error: OSError, place: Path) -> str:
    with suppress(OSError):
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"{error.strerror}; it belongs to {user_name(os.lstat(place).st_uid)}"
    return str(error.strerror)


def _file_name(path: Path) -> str:
    """A file name for a path, which is limited to 255 bytes."""
    name = quote(str(path), safe="")
    if len(name) < 200:
        return name
    # Few paths are so long.
    from zlib import crc32

    return f"{name[-180:]}-{crc32(os.fsencode(path)):08x}"


def _is_sane(process: Identity, boot: str) -> bool:
    """Pid 0 means a group and pid 1 is init: neither is ever a target."""
    return 1 < process.pid <= 2**22 and process.started >= 0 and process.boot == boot


_DECODER = msgspec.json.Decoder(Record)
