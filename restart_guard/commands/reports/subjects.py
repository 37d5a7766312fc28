"""Names of checks, refreshes and targets on a command line, and who types it."""

import getpass
import os

from restart_guard.config.options import Config
from restart_guard.config.wording import suggestion
from restart_guard.errors import UsageError


def named(config: Config, name: str) -> list[tuple[str, str]]:
    """The (kind, name)s that a word means, which may be ``check:NAME``. Raises UsageError if there is none."""
    sections = (("check", config.checks), ("refresh", config.refreshes), ("target", config.targets))
    known = [(kind, one) for kind, names in sections for one in names]
    found = [one for one in known if name in (one[1], ":".join(one))]
    if not found:
        names = sorted({one for _, one in known})
        raise UsageError(f"There is no check, refresh or target {name} in {config.path}{suggestion(name, names)}.")
    return found


def person() -> str:
    """The person behind sudo, if there is one."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        return str(os.getuid())
