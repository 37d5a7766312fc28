"""Rotates a log that a program holds open: its lines are copied, then taken out of the file, which stays the same one.

Where the file system can cut blocks out of the front of a file (ext4, XFS: fallocate(2), FALLOC_FL_COLLAPSE_RANGE) no
line is lost or cut whatever the program writes meanwhile. Elsewhere the file is truncated right after the last byte was
copied: what is written in the microseconds between is lost.
"""

import ctypes
import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from restart_guard.host.files import Files
from restart_guard.sizes import size

_COLLAPSE = 0x08
_PART = 1 << 20
_LEAST_FREE = 64 << 20
_LONGEST_LINE = 1 << 20
CUT_HERE = b"[the lines before this one are in "
"""So begins what is left of a line at a cut."""


def rotate(files: Files, path: Path, most: int, keep: int) -> str:
    """If the log is larger than ``most``, move what is in it to ``<log>.1``, that to ``<log>.2``, and so on; at most
    ``keep`` are kept. Returns why not, or an empty text; then the log is as it was.

    Nothing is taken out of the log before its copy is in its place: a kill in between only doubles lines. Who rotates
    holds a flock on the log, so that a tick and a watch never do it at once.
    """
    try:
        place = files.place(path)
        fd = files.open(place, os.O_RDWR)
    except OSError as error:
        return f"{path} cannot be rotated: {error.strerror}"
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _rotate(files, fd, place, keep) if os.fstat(fd).st_size > most else ""
    except BlockingIOError:
        return ""  # somebody else does it
    except OSError as error:
        return f"{path} cannot be rotated: {error.strerror}"
    finally:
        os.close(fd)


def _rotate(files: Files, fd: int, place: str, keep: int) -> str:
    status = os.fstat(fd)
    room = os.statvfs(os.path.dirname(place))  # noqa: PTH120
    free = room.f_bavail * room.f_frsize
    if free < status.st_size + _LEAST_FREE:
        return f"{place} cannot be rotated: its copy of {size(status.st_size)} would fill the disk ({size(free)} free)"
    new = f"{place}.new"
    copy = files.create(new, 0o600)
    try:
        try:
            with suppress(OSError):  # else it stays its owner's alone
                os.fchown(copy, -1, status.st_gid)
                os.fchmod(copy, status.st_mode & 0o666)
            copied = _copy(fd, copy, 0, _end_of_line(fd, status.st_size))
            os.fsync(copy)
            _shift(files, place, keep)
            files.rename(new, f"{place}.1")
        except OSError:
            with suppress(OSError):
                files.remove(Path(new))
            raise
        is_cut = _cut(fd, copied, status.st_blksize, os.path.basename(f"{place}.1"))  # noqa: PTH119
        while not is_cut:
            end = os.fstat(fd).st_size
            if end == copied:
                os.ftruncate(fd, 0)
                break
            copied = _copy(fd, copy, copied, end)  # what was written since
    finally:
        os.close(copy)
    return ""


def _shift(files: Files, place: str, keep: int) -> None:
    """Make room for a new ``.1``, and remove what is beyond ``keep``, which may have been more before."""
    number = keep + 1
    while os.path.lexists(f"{place}.{number}"):
        files.remove(Path(f"{place}.{number}"))
        number += 1
    for number in range(keep, 1, -1):
        with suppress(FileNotFoundError):
            files.rename(f"{place}.{number - 1}", f"{place}.{number}")


def _end_of_line(fd: int, end: int) -> int:
    """The end of the last whole line; of a line without end, where it is now."""
    start = max(0, end - _LONGEST_LINE)
    at = os.pread(fd, end - start, start).rfind(b"\n")
    return end if at < 0 else start + at + 1


def _copy(source: int, copy: int, begin: int, end: int) -> int:
    while begin < end:
        part = os.pread(source, min(_PART, end - begin), begin)
        if not part:
            break
        begin += os.write(copy, part)
    return begin


def _cut(fd: int, end: int, block: int, where: str) -> bool:
    """Cut the copied bytes out of the front. Only whole blocks can be: what is left of them becomes one line that tells
    where they are. False where this is not supported."""
    whole = end - end % block
    if whole == os.fstat(fd).st_size:
        whole -= block  # not all of a file can be cut out
    if whole <= 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "fallocate"):
        return False
    if libc.fallocate(fd, _COLLAPSE, ctypes.c_int64(0), ctypes.c_int64(whole)) != 0:
        if ctypes.get_errno() in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENOTTY):
            return False
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    left = end - whole
    if left:
        text = CUT_HERE + os.fsencode(where) + b"]"
        os.pwrite(fd, (text if len(text) < left else b"").ljust(left - 1) + b"\n", 0)
    return True
