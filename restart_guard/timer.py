"""The lines that cron runs for a config, and our block in the user's crontab."""

import difflib
import os
import re
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from restart_guard import clock, crontab
from restart_guard.config import default_state_dir
from restart_guard.crontab_block import lines_of, quoted, with_block, without_block
from restart_guard.errors import GuardError, UsageError
from restart_guard.lock import held
from restart_guard.settings import Config, Timer

_CATCH_UP = "23 * * * *"
_SBIN = Path(__file__).resolve().parent.parent / "sbin"
_MACHINE_ID = Path("/etc/machine-id")


class Plan(NamedTuple):
    """A crontab as it is and as it would be. ``name`` is our block's."""

    name: str
    old: bytes
    new: bytes

    @property
    def diff(self) -> list[str]:
        """The change, as diff -u shows it, without the names of files."""
        old, new = (side.decode(errors="replace").splitlines() for side in (self.old, self.new))
        return list(difflib.unified_diff(old, new, lineterm="", n=1))[2:]


def lines(config: Config, *, watch: bool, random_delay_s: float) -> list[str]:
    """What cron runs: the tick, with ``watch`` also one watch a minute, the weekly check and its hourly catch-up.

    Every path is absolute, since a job of cron's has next to no environment. Raises GuardError.
    """
    timer = config.timer or Timer()
    found = [_line(timer.restart, _command(config, "restart"), config, "restart.log")]
    if watch and config.targets:
        found.append(_line("* * * * *", _command(config, "watch", "--wait", "--for", "1m"), config, "watch.log"))
    if config.checks:
        schedule = _delayed(timer.check_redis, random_delay_s, config.path)
        found.append(_line(schedule, _check_command(config), config, "get_redis_data.log"))
        found.append(_line(_CATCH_UP, _command(config, "check-redis", "--if-due"), config, "get_redis_data.log"))
    return found


def log_dir(config: Config) -> Path:
    return config.timer.log_dir if config.timer and config.timer.log_dir else config.state_dir / "logs"


def _line(schedule: str, words: Sequence[str], config: Config, log: str) -> str:
    command = " ".join(map(quoted, words))
    out, err = (quoted(str(log_dir(config) / name)) for name in (log, "crontab_error.log"))
    return f"{' '.join(schedule.split())} {command} >> {out} 2>> {err}"


def _command(config: Config, *words: str) -> list[str]:
    """The command as this interpreter has it; a venv's link to it must not be resolved, or it leaves the venv."""
    script = Path(sys.executable).with_name("restart-guard")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "restart_guard"]
    return [*program, "-c", str(config.path), *words]


def _check_command(config: Config) -> list[str]:
    """In a checkout with its own config.toml the script that operators know, else the command."""
    script = _SBIN / "restart_get_redis.sh"
    if script.exists() and config.path == _SBIN.parent / "config.toml":
        return [str(script)]
    return _command(config, "check-redis")


def _delayed(schedule: str, most_s: float, path: Path) -> str:
    """The schedule later by a part of ``most_s`` that is always the same on this host. Raises UsageError."""
    if most_s < 60:
        return schedule
    fields = schedule.split()
    if not (fields[0].isdecimal() and fields[1].isdecimal()):
        raise UsageError(f"--random-delay needs a fixed minute and hour; timer.check_redis is {schedule}.")
    machine = _MACHINE_ID.read_bytes() if _MACHINE_ID.exists() else os.uname().nodename.encode()
    minute = int(fields[1]) * 60 + int(fields[0]) + zlib.crc32(machine + os.fsencode(path)) % (int(most_s // 60) + 1)
    if minute >= 24 * 60:
        raise UsageError(f"--random-delay would move {schedule} to another day.")
    return " ".join([str(minute % 60), str(minute // 60), *fields[2:]])


def block_name(config: Config) -> str:
    """Two configs of a user have a block each; the name stands in a comment, on one line."""
    return re.sub(r"\s", " ", str(config.path))


def plan_install(config: Config, *, watch: bool = False, random_delay_s: float = 0.0) -> Plan:
    """Raises GuardError when the crontab cannot be read or is damaged."""
    name, old = block_name(config), crontab.read()
    return Plan(name, old, with_block(old, name, lines(config, watch=watch, random_delay_s=random_delay_s)))


def installed(config: Config) -> list[str] | None:
    """The lines of our block, None without one. Raises GuardError when the crontab cannot be read or is damaged."""
    return lines_of(crontab.read(), block_name(config))


def is_current(config: Config, found: Sequence[str]) -> bool:
    """Whether these are the lines that would be written now; a delay of the check, which the config does not know, is
    nobody's mistake."""
    watch = any(" watch " in line for line in found)
    wanted = lines(config, watch=watch, random_delay_s=0)
    return [line.split()[5:] for line in found] == [line.split()[5:] for line in wanted]


def plan_uninstall(config: Config) -> Plan:
    """Raises GuardError when the crontab cannot be read or is damaged."""
    name, old = block_name(config), crontab.read()
    return Plan(name, old, without_block(old, name))


def carry_out(config: Config, plan: Plan) -> Path:
    """Put the new crontab in place, with the folder of its logs; where the old one was saved. Raises GuardError."""
    saved = config.state_dir / f"crontab.{clock.local(clock.now()):%Y%m%dT%H%M%S}"
    with held(default_state_dir(os.environ), ["crontab"], what="A change of the crontab", wait=True):
        try:
            log_dir(config).mkdir(parents=True, exist_ok=True)
            config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            saved.write_bytes(plan.old)
        except OSError as error:
            raise GuardError(f"{error.filename} cannot be written ({error.strerror}); nothing was changed.") from error
        crontab.replace(plan.old, plan.new)
    return saved
