"""File work in folders that somebody else may write: a program's own.

As root it is done as the program's account, so that the kernel refuses what that account may not do. For every user no
link of another's is followed, nothing that can block or has no end is opened, and what is made is new.
"""

import errno
import os
import platform
import pwd
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from restart_guard.errors import GuardError

_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK
_MOST_LINKS = 8
_STREAMS = ("/dev/null", "/dev/stdout", "/dev/stderr")  # the kernel's own links
# setgroups(2) as a system call is for one thread; the C library's function is for all.
_SETGROUPS = {
    "x86_64": 116, "aarch64": 159, "riscv64": 159, "loongarch64": 159, "ppc64le": 81, "s390x": 206,
    "armv7l": 206, "armv6l": 206, "i686": 206, "i386": 206,
}  # fmt: skip


class Account(NamedTuple):
    """An account of this host, by its numbers."""

    uid: int
    gid: int
    groups: Sequence[int] = ()


def user_name(uid: int) -> str:
    """The name of a user, or the number of one that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class Files:
    """File work as an account; as ourselves if there is none."""

    def __init__(self, account: Account | None = None) -> None:
        self.account = account

    def open(self, path: Path | str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
        """A descriptor of a regular file. Raises OSError; EINVAL if it is something else."""
        with self._hand():
            fd = os.open(path, flags | _SAFE, mode)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))

    def read(self, path: Path | str, limit: int) -> bytes:
        """The beginning of a regular file. Raises OSError."""
        fd = self.open(path)
        try:
            return _read(fd, limit)
        finally:
            os.close(fd)

    def read_trusted(self, path: Path | str, limit: int) -> tuple[bytes, os.stat_result]:
        """The beginning of a file that only the account or root can have written, and its status. Raises OSError."""
        fd = self.open(path)
        try:
            status = os.fstat(fd)
            is_theirs = self._trusts(status.st_uid) and status.st_nlink == 1
            if not is_theirs or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise PermissionError(errno.EPERM, "somebody else may have written it", str(path))
            return _read(fd, limit), status
        finally:
            os.close(fd)

    def make_shared(self, path: Path) -> int:
        """A new file, open for reading and writing: for its owner alone, or in a group's folder for the group. Raises
        OSError."""
        with self._hand():
            folder = os.stat(path.parent)  # noqa: PTH116
            mode = _shared_mode(folder)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE, mode)
            with suppress(OSError):
                if mode != 0o600:
                    os.fchown(fd, -1, folder.st_gid)
                os.fchmod(fd, mode)  # whatever the umask is
        return fd

    def narrow(self, fd: int, path: Path) -> None:
        """Take the rights of others from a file of the account's own that was made with more than ``make_shared``
        gives."""
        status = os.fstat(fd)
        if not self._trusts(status.st_uid) or status.st_nlink != 1 or not status.st_mode & 0o077:
            return
        with suppress(OSError), self._hand():
            mode = _shared_mode(os.stat(path.parent))  # noqa: PTH116
            if status.st_mode & 0o777 & ~mode:
                os.fchmod(fd, mode)

    def replace(self, path: Path, content: bytes, *, mode: int, sync: bool) -> None:
        """Write a file's new content beside it and rename it, so that nobody sees half of it. Raises OSError."""
        new = f"{path}.new"  # one fixed name, so that a kill leaves no litter: the writer holds the lock
        with self._hand():
            try:
                fd = _create(new, mode)
                try:
                    written = os.write(fd, content)
                    while written < len(content):  # the disk is nearly full: the next call says so
                        written += os.write(fd, content[written:])
                    if sync:
                        os.fsync(fd)
                finally:
                    os.close(fd)
                os.replace(new, path)  # noqa: PTH105 (in the path of a relaunch, where Path costs as much as the call)
            except OSError:
                with suppress(OSError):
                    os.unlink(new)  # noqa: PTH108
                raise

    def overwrite(self, path: Path, content: bytes) -> None:
        """Write over a file of our own in place, which needs no space. Raises OSError."""
        fd = self.open(path, os.O_WRONLY)
        try:
            if not self._trusts(os.fstat(fd).st_uid):
                raise PermissionError(errno.EPERM, "it belongs to another user", str(path))
            os.write(fd, content)
            os.ftruncate(fd, len(content))
        finally:
            os.close(fd)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there. Raises OSError."""
        with self._hand(), suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108

    def make_folder(self, path: Path) -> None:
        """Make a folder that others may look into whatever the umask is, and those above it. Raises OSError."""
        with self._hand():
            _make_folder(path)

    def create(self, path: str, mode: int) -> int:
        """A new file, open for writing, in place of a left-over one. Raises OSError."""
        with self._hand():
            return _create(path, mode)

    def rename(self, before: str, after: str) -> None:
        """Raises OSError."""
        with self._hand():
            os.replace(before, after)  # noqa: PTH105

    def append(self, path: Path) -> int:
        """A descriptor that appends to a log, which is made with its folder if it is missing. A link must be of the
        account or root. It may be a device such as /dev/null, and a FIFO that somebody reads. Raises OSError."""
        with self._hand():
            place = self._behind_links(str(path))
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_NONBLOCK if place in _STREAMS else _SAFE)
            try:
                fd = os.open(place, flags, 0o644)
            except FileNotFoundError:
                _make_folder(Path(place).parent)
                fd = os.open(place, flags, 0o644)
            except PermissionError as error:
                raise PermissionError(error.errno, f"{error.strerror}{self._whose(place)}", str(path)) from error
        return fd

    def _whose(self, path: str) -> str:
        """Of a file that may not be written: whose it is, and who wanted to."""
        with suppress(OSError):
            who = user_name(os.geteuid() if self.account is None else self.account.uid)
            return f" (it belongs to {user_name(os.lstat(path).st_uid)}, and the program runs as {who})"
        return ""

    def may_write(self, path: Path) -> bool:
        """Whether a file or folder may be written."""
        with self._hand():
            return os.access(path, os.W_OK, effective_ids=True)  # by the ids of this thread, which _hand has changed

    def read_text(self, path: Path, limit: int) -> str:
        """A whole regular file in UTF-8; a link must be of the account or root. Raises OSError, EFBIG if it is larger,
        and UnicodeDecodeError."""
        content = self.read(self.place(path), limit + 1)
        if len(content) > limit:
            raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
        return content.decode().removeprefix("\ufeff")  # some editors put that there

    def read_end(self, path: Path, limit: int, *, start: int) -> bytes:
        """The end of a regular file, but not what is before ``start``; a link must be of the account or root. Raises
        OSError."""
        fd = self.open(self.place(path))
        try:
            os.lseek(fd, max(start, os.fstat(fd).st_size - limit), os.SEEK_SET)
            return _read(fd, limit)
        finally:
            os.close(fd)

    def place(self, path: Path) -> str:
        """What a path leads to; a link must be of the account or root. Raises OSError."""
        with self._hand():
            return self._behind_links(str(path))

    def size(self, path: Path) -> int:
        """The size of a file, 0 if it cannot be seen."""
        try:
            with self._hand():
                return os.stat(path).st_size  # noqa: PTH116
        except OSError:
            return 0

    def _behind_links(self, path: str) -> str:
        """What a path leads to, its last part followed as long as that is a link of a trusted user."""
        for _ in range(_MOST_LINKS):
            if path in _STREAMS:
                return path
            try:
                before = os.lstat(path)
            except OSError:
                return path
            if not stat.S_ISLNK(before.st_mode):
                return path
            to = os.readlink(path)  # noqa: PTH115
            # A link cannot be changed, only replaced: it is the same one, so this is where it leads to.
            if not self._trusts(before.st_uid) or os.lstat(path).st_ino != before.st_ino:
                break
            path = os.path.join(os.path.dirname(path), to)  # noqa: PTH118, PTH120
        raise OSError(errno.ELOOP, "it is a link of another user", path)

    def _trusts(self, uid: int) -> bool:
        """Whether a file of this user may be taken for one of ours: root's, the account's or our own."""
        return uid in (0, os.geteuid()) or (self.account is not None and uid == self.account.uid)

    def _hand(self) -> AbstractContextManager[None]:
        """Does the file work of this thread as the account."""
        if self.account is None or self.account.uid == 0 or os.geteuid() != 0:
            return _OWN_HAND
        return _acting_as(self.account)


_OWN_HAND = nullcontext()


@contextmanager
def _acting_as(account: Account) -> Iterator[None]:
    """This thread does its file work as the account, others go on as root (credentials(7), setfsuid(2)).

    No thread or process may be started meanwhile: it would inherit that.
    """
    libc = _libc()
    _set_groups(libc, account.groups)
    libc.setfsgid(account.gid)
    libc.setfsuid(account.uid)
    try:
        if libc.setfsuid(-1) != account.uid:
            raise OSError(errno.EPERM, f"root may not act as uid {account.uid} here")
        yield
    finally:
        libc.setfsuid(0)
        libc.setfsgid(os.getegid())
        _set_groups(libc, _own_groups())


@cache
def _own_groups() -> list[int]:
    return os.getgroups()


@cache
def _libc() -> Any:
    # Only root on behalf of somebody else pays for it.
    import ctypes

    if platform.system() != "Linux" or platform.machine() not in _SETGROUPS:
        here = f"{platform.system()}, {platform.machine()}"
        raise GuardError(f"As root, programs of other users can be guarded on Linux only, not on {here}.")
    _own_groups()
    return ctypes.CDLL(None, use_errno=True)


def _set_groups(libc: Any, groups: Sequence[int]) -> None:
    # As above.
    import ctypes

    array = (ctypes.c_uint32 * len(groups))(*groups)
    if libc.syscall(_SETGROUPS[platform.machine()], len(groups), array) != 0:
        raise OSError(ctypes.get_errno(), "root may not change its groups here")


def _shared_mode(folder: os.stat_result) -> int:
    is_group_s = folder.st_mode & stat.S_IWGRP and not folder.st_mode & stat.S_IWOTH
    return 0o660 if is_group_s else 0o600


def _read(fd: int, limit: int) -> bytes:
    content = b""
    while len(content) < limit:
        part = os.read(fd, limit - len(content))
        if not part:
            break
        content += part
    return content


def _create(path: str, mode: int) -> int:
    """A new file with this mode whatever the umask is, in place of a left-over one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, mode)
    except FileExistsError:
        os.unlink(path)  # noqa: PTH108
        fd = os.open(path, flags, mode)
    with suppress(OSError):
        os.fchmod(fd, mode)
    return fd


def _make_folder(path: Path) -> None:
    if path.is_dir():
        return
    _make_folder(path.parent)
    try:
        path.mkdir(mode=0o755)
    except FileExistsError:
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchmod(fd, 0o755)
    finally:
        os.close(fd)
