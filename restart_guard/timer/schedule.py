"""The times of a schedule in the host's time zone: the last one, the next one."""

import os
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from restart_guard import clock
from restart_guard.config.options import Config, Timer
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


class Schedule(NamedTuple):
    """Five cron fields, and the option of the config that has them."""

    fields: str
    option: str


def tick_schedule(config: Config) -> Schedule:
    """When the tick is due."""
    return Schedule((config.timer or Timer()).restart, "timer.restart")


def check_schedule(config: Config, name: str) -> Schedule:
    """When a check is due: its own schedule, else that of all checks."""
    own = config.checks[name].schedule
    if own is not None:
        return Schedule(own, f"checks.{name}.schedule")
    return Schedule((config.timer or Timer()).check_redis, "timer.check_redis")


def last_slot(schedule: Schedule, *, now: datetime) -> datetime:
    """The last moment of the schedule up to now, in the host's zone. Raises ConfigError."""
    return _slot(schedule, now, reverse=True)


def next_slot(schedule: Schedule, *, now: datetime) -> datetime:
    """The next moment of the schedule, in the host's zone. Raises ConfigError."""
    return _slot(schedule, now, reverse=False)


def _slot(schedule: Schedule, now: datetime, *, reverse: bool) -> datetime:
    try:
        return _found(schedule.fields, now, reverse=reverse)
    except (CronSimError, StopIteration) as error:
        text = f"{schedule.option}: expected five cron fields that name a moment, was {schedule.fields}."
        raise ConfigError(text) from error


@lru_cache(maxsize=64)
def _found(fields: str, now: datetime, *, reverse: bool) -> datetime:
    """Many checks have one schedule."""
    return next(CronSim(fields, now.astimezone(local_zone()), reverse=reverse))
