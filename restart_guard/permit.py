"""Until when this host may run the targets of a standby group: a small file that its leader writes and whoever launches
or fences a target reads.

One line of a fixed length, so that it is overwritten in place by one write: seconds of CLOCK_BOOTTIME and the fencing
token. What is missing, damaged or of another boot permits nothing.
"""

import os
from pathlib import Path
from typing import NamedTuple

from restart_guard import clock, host

_LENGTH = 128
_NONE = "-"


class Permit(NamedTuple):
    """``token`` is None when the group leads without one."""

    until: float = 0.0
    token: int | None = None

    def holds(self) -> bool:
        return clock.boottime() < self.until


def read(path: Path) -> Permit:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return Permit()
    try:
        until, number, boot = os.read(fd, _LENGTH).decode().split()
        return Permit(float(until), None if number == _NONE else int(number)) if boot == host.boot_id() else Permit()
    except (OSError, ValueError):
        return Permit()
    finally:
        os.close(fd)


def write(path: Path, permit: Permit) -> None:
    """Raises OSError."""
    line = f"{permit.until:.6f} {_NONE if permit.token is None else permit.token} {host.boot_id()}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(fd, line.ljust(_LENGTH - 1).encode() + b"\n", 0)
    finally:
        os.close(fd)
