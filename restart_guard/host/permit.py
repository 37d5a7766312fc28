"""The permit: a small file that says until when this host may run the targets of a standby group. The leader writes it;
whoever launches or fences a target reads it.

It is one line of fixed length, so that one write replaces it in place, also on a full disk. A reader may come in the
middle of a write: the line ends with its checksum, and is read again if that does not match. A permit that is missing,
damaged or of another boot permits nothing.
"""

import os
import zlib
from pathlib import Path
from typing import NamedTuple

from restart_guard import clock
from restart_guard.host import process_table

_LENGTH = 128
_NONE = "-"
_READS = 5


class Permit(NamedTuple):
    """``until`` is in seconds of CLOCK_BOOTTIME. ``token`` is None if the group leads without one.

    ``starts`` is False while the targets are being stopped for another host: nothing may be started then.
    """

    until: float = 0.0
    token: int | None = None
    starts: bool = True

    def holds(self) -> bool:
        return clock.boottime() < self.until


def read(path: Path | None) -> Permit:
    """The permit in this file. Without a path there is no group, and so no permit."""
    if path is None:
        return Permit()
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return Permit()
    try:
        for _ in range(_READS):
            line, _, checksum = os.pread(fd, _LENGTH, 0).rstrip().rpartition(b" ")
            if checksum == _checksum(line):
                return _parsed(line.decode())
    except (OSError, ValueError):
        return Permit()
    finally:
        os.close(fd)
    return Permit()


def _parsed(line: str) -> Permit:
    until, number, starts, boot = line.split()
    if boot != process_table.boot_id():
        return Permit()
    return Permit(float(until), None if number == _NONE else int(number), starts == "1")


def write(path: Path, permit: Permit) -> None:
    """Raises OSError."""
    number = _NONE if permit.token is None else permit.token
    line = f"{permit.until:.6f} {number} {permit.starts:d} {process_table.boot_id()}".encode()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(fd, (line + b" " + _checksum(line)).ljust(_LENGTH - 1) + b"\n", 0)
    finally:
        os.close(fd)


def _checksum(line: bytes) -> bytes:
    return f"{zlib.crc32(line):08x}".encode()
