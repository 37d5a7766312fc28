"""The only file that reads a clock or sleeps.

Spans and deadlines use ``monotonic``; stamps are aware UTC and may jump with the wall clock.
"""

import time
from datetime import UTC, datetime

_BOOTTIME: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the first is only on Linux


def now() -> datetime:
    """The wall clock, aware, in UTC."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds on a clock that never steps; only differences mean anything."""
    return time.monotonic()


def boottime() -> float:
    """Seconds since boot. On Linux time in suspend counts, as in the kernel's start times of processes (proc(5))."""
    return time.clock_gettime(_BOOTTIME)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def local(moment: datetime) -> datetime:
    """The same moment with the host's offset."""
    return moment.astimezone()


def stamp(moment: datetime) -> str:
    """ISO 8601 with offset, to the millisecond; in UTC these sort as text."""
    return moment.isoformat(timespec="milliseconds")
