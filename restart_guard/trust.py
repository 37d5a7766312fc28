"""What a config must not let other users decide: docs/security.md has the rules."""

import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from restart_guard.config.options import Config, TargetOptions
from restart_guard.config.wording import key
from restart_guard.errors import ConfigError
from restart_guard.host.files import user_name
from restart_guard.host.trust import Weakness, weakness


def check(config: Config, *, is_named: bool) -> None:
    """Refuse a config that another user can change, and as root all that would give root's rights to another user.

    A config that was found and not named must be our own or root's. Raises ConfigError with every problem.
    """
    found = _for_root(config) if os.geteuid() == 0 else _for_user(config.path, is_named=is_named)
    problems = [f"{config.path}: {problem}" for problem in found]
    if problems:
        raise ConfigError(*problems)


def _for_user(path: Path, *, is_named: bool) -> Iterator[str]:
    status = path.stat()
    if status.st_mode & stat.S_IWOTH and not stat.S_ISCHR(status.st_mode):
        yield f"everybody can change this config: chmod o-w {path}"
    if not is_named and status.st_uid not in (0, os.geteuid()):
        yield f"this config belongs to user {user_name(status.st_uid)}: name it with -c if you trust it."


def _for_root(config: Config) -> Iterator[str]:
    own = [("the config", config.path), ("state_dir", config.state_dir)]
    if config.timer is not None and config.timer.log_dir is not None:
        own.append(("timer.log_dir", config.timer.log_dir))
    for what, path in own:
        weak = weakness(path)
        if weak is not None:
            yield f"{what}: {_told(weak)}"
    for name, target in config.targets.items():
        if _is_root(target.user):
            yield from _of_root(f"targets.{key(name)}", target)


def _is_root(user: str | None) -> bool:
    """Whether a target of this user runs as root, which may have more names than one."""
    with suppress(KeyError):
        return user is None or pwd.getpwnam(user).pw_uid == 0
    return False  # nothing is started as a user who does not exist


def _of_root(where: str, target: TargetOptions) -> Iterator[str]:
    """The problems of a target that would run as root."""
    for option in ("program", "directory", "pid_file", "log_file", "environment_file"):
        path = getattr(target, option)
        weak = None if path is None else weakness(path)
        if weak is None:
            continue
        if weak.is_open:
            yield f"{where}.{option}: {_told(weak)}"
        else:
            who = user_name(weak.owner)
            yield (
                f'{where}.user: expected user = "{who}", since {weak.path} belongs to that user, who could make root '
                f"do anything; or chown root {weak.path}"
            )
        return


def _told(weak: Weakness) -> str:
    if weak.is_open:
        return f"others than root can write {weak.path}: chmod go-w {weak.path}"
    return f"{weak.path} belongs to user {user_name(weak.owner)}, and as root it must be root's: chown root {weak.path}"
