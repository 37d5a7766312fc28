"""The jobs and their times: the tick, a watch, a standby and the weekly check, for every backend."""

import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from restart_guard import paths
from restart_guard.config.options import Config, Timer

_MINUTELY = "* * * * *"
_CATCH_UPS = (23, 53, 38, 8)  # minutes of the catch-up; one that no job of its kind is due at
_REFRESH_CATCH_UPS = (43, 13, 58, 28)


class Job(NamedTuple):
    """A command, its times in five cron fields, and its two log files.

    ``weekly`` marks a job that a fleet should not run all at once, and that a host may sleep through.
    """

    name: str
    schedule: str
    words: tuple[str, ...]
    log: Path
    errors: Path
    weekly: bool = False


def jobs(config: Config, *, watch: bool, delay_s: float = 0.0) -> Iterator[Job]:
    """All jobs of a config, the checks up to ``delay_s`` late. Every path is absolute, since a job has almost no
    environment."""
    timer = config.timer or Timer()

    def job(name: str, schedule: str, words: tuple[str, ...], log: str, *, weekly: bool = False) -> Job:
        folder = log_dir(config)
        return Job(name, " ".join(schedule.split()), words, folder / log, folder / "crontab_error.log", weekly)

    yield job("tick", timer.restart, command(config, "restart"), "restart.log")
    if config.standby is not None:
        yield job("standby", _MINUTELY, command(config, "standby", "--for", "1m"), "standby.log")
    # A group's targets are watched by its leader.
    watched = [name for name in config.targets if name not in config.standby_targets]
    if watch and watched:
        names = watched if len(watched) < len(config.targets) else []
        yield job("watch", _MINUTELY, command(config, "watch", "--wait", "--for", "1m", *names), "watch.log")
    usual = [name for name, check in config.checks.items() if check.schedule is None]
    if usual:
        names = usual if len(usual) < len(config.checks) else []
        words = command(config, "check-redis", *names)
        yield job("check", timer.check_redis, words, "get_redis_data.log", weekly=True)
    for name, check in config.checks.items():
        if check.schedule is not None:
            words = command(config, "check-redis", name)
            yield job(f"check-{_plain(name)}", check.schedule, words, "get_redis_data.log", weekly=True)
    if config.checks:
        late = ("--late", f"{delay_s:.0f}s") if delay_s else ()
        schedules = [timer.check_redis, *(check.schedule or "" for check in config.checks.values())]
        yield job(
            "catch-up",
            _apart(_CATCH_UPS, schedules),
            command(config, "check-redis", "--if-due", *late),
            "get_redis_data.log",
        )
    scheduled = {name: one.schedule for name, one in config.refreshes.items() if one.schedule is not None}
    for name, schedule in scheduled.items():
        yield job(f"refresh-{_plain(name)}", schedule, command(config, "refresh", name), "refresh.log")
    if scheduled:
        yield job(
            "refresh-catch-up",
            _apart(_REFRESH_CATCH_UPS, scheduled.values()),
            command(config, "refresh", "--if-due"),
            "refresh.log",
        )


def _apart(minutes: Sequence[int], schedules: Iterable[str]) -> str:
    """Each hour at the first of these minutes that is not the minute of a schedule."""
    taken = {schedule.split()[0] for schedule in schedules if schedule}
    return f"{next((minute for minute in minutes if str(minute) not in taken), minutes[0])} * * * *"


def _plain(name: str) -> str:
    """A job's name as systemd accepts it in a unit's name."""
    plain = name.isascii() and all(letter.isalnum() or letter in "-_" for letter in name)
    return name if plain else f"{zlib.crc32(os.fsencode(name)):08x}"


def log_dir(config: Config) -> Path:
    return config.timer.log_dir if config.timer and config.timer.log_dir else config.state_dir / "logs"


def command(config: Config, *words: str) -> tuple[str, ...]:
    """The command of this interpreter. A venv's link to the interpreter must not be resolved, or it would leave the
    venv."""
    script = Path(sys.executable).with_name("restart-guard")
    program = (str(script),) if paths.exists(script) else (sys.executable, "-m", "restart_guard")
    return (*program, "-c", str(config.path), *words)
