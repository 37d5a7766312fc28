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
        fds = [_open(state_dir, name) for name in sorted(set(names))]
        if None in fds and fallback:
            fds.append(_open_directory(state_dir))
        for fd in fds:
            if fd is None:
                continue
            stack.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    continue  # a file system without locks
                raise BusyError(f"{what} is running in another process{_holder(fd)}; nothing was changed.") from error
            with suppress(OSError):
                os.truncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield


def _open(state_dir: Path, name: str) -> int | None:
    with suppress(OSError):
        # Created in a separate step: parents=True would make it readable by all.
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (state_dir / "locks").mkdir(mode=0o700, exist_ok=True)
        return os.open(state_dir / "locks" / _file_name(name), os.O_RDWR | os.O_CREAT, 0o600)
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
