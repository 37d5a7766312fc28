"""The times of a schedule in the host's time zone: the last one, the next one."""

import os
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from restart_guard import clock
from restart_guard.errors import ConfigError


def local_zone() -> tzinfo:
    """The host's time zone with its future changes, which an offset alone does not have.

    From ``TZ``, else /etc/localtime as tzset(3) does; a ``TZ`` that names no zone file gives today's offset.
    """
    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        if name:
            return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file, key="local")
    except (OSError, ValueError, ZoneInfoNotFoundError):  # which is a KeyError
        return clock.local(clock.now()).tzinfo or UTC


def last_slot(schedule: str, *, option: str, now: datetime) -> datetime:
    """The last moment of the schedule up to now, in the host's zone. Raises ConfigError."""
    return _slot(schedule, option, now, reverse=True)


def next_slot(schedule: str, *, option: str, now: datetime) -> datetime:
    """The next moment of the schedule, in the host's zone. Raises ConfigError."""
    return _slot(schedule, option, now, reverse=False)


def _slot(schedule: str, option: str, now: datetime, *, reverse: bool) -> datetime:
    try:
        return next(CronSim(schedule, now.astimezone(local_zone()), reverse=reverse))
    except (CronSimError, StopIteration) as error:
        raise ConfigError(f"{option}: expected five cron fields that name a moment, was {schedule}.") from error
