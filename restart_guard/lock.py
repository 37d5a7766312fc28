"""Mutual exclusion between processes: flock(2), which the kernel releases however the holder dies."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from restart_guard.errors import BusyError


@contextmanager
def held(state_dir: Path, names: list[str], *, what: str, fallback: bool = True, wait: bool = False) -> Iterator[None]:
    """Hold the named locks of a state directory, all or none. Raises BusyError at once if another process has one of
    them, or with ``wait`` waits for it.

    If no lock file can be made (a full or read-only disk), ``fallback`` locks the directory itself; without it nothing
    is excluded.

    The locks are taken in the order of their names, so that two processes that want several never wait for each other.
    The descriptors are close-on-exec (PEP 446): a program that is started meanwhile does not keep the lock.
    """
    with ExitStack() as stack:
        could_open = True
        for name in sorted(set(names)):
            path = state_dir / "locks" / _file_name(name)
            fd = _locked(state_dir, path, what=what, wait=wait)
            if fd is None:
                could_open = False
            else:
                stack.callback(os.close, fd)
        if not could_open and fallback:
            directory = _open_directory(state_dir)
            if directory is not None:
                stack.callback(os.close, directory)
                _lock(directory, what=what, wait=wait)
        yield


def _locked(state_dir: Path, path: Path, *, what: str, wait: bool) -> int | None:
    """A descriptor of the lock file, locked; None if it cannot be made. Raises BusyError.

    Somebody may have removed the file while its lock was waited for (``git clean``, ``rsync --delete``): then another
    process may have locked the one that was made in its place.
    """
    while True:
        fd = _open(state_dir, path)
        if fd is None:
            return None
        try:
            _lock(fd, what=what, wait=wait)
        except BusyError:
            os.close(fd)
            raise
        if is_still_at(fd, path):
            return fd
        os.close(fd)


def is_still_at(fd: int, path: Path) -> bool:
    """Whether an open file is still the one at this path."""
    try:
        here = os.stat(path, follow_symlinks=False)  # noqa: PTH116 (in the path of a relaunch)
    except OSError:
        return False
    there = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _lock(fd: int, *, what: str, wait: bool) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return  # a file system without locks
        raise BusyError(f"{what} is running in another process{_holder(fd)}; nothing was changed.") from error
    with suppress(OSError):
        os.truncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def _open(state_dir: Path, path: Path) -> int | None:
    with suppress(OSError):
        # Created in a separate step: parents=True would make it readable by all.
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (state_dir / "locks").mkdir(mode=0o700, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    return None


def _file_name(name: str) -> str:
    """The lock's file name. A file name is limited to 255 bytes, the name of a check is not."""
    if len(name.encode()) < 200:
        return name
    # It brings 5 MiB of OpenSSL.
    from hashlib import sha256

    return sha256(name.encode()).hexdigest()


def _open_directory(state_dir: Path) -> int | None:
    with suppress(OSError):
        return os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    return None


def _holder(fd: int) -> str:
    """`` (pid N)`` as the holder wrote it."""
    with suppress(OSError, ValueError):
        return f" (pid {int(os.pread(fd, 32, 0))})"
    return ""
