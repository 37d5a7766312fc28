"""systemd: where unit files are, and systemctl, which makes it read them."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from restart_guard import paths
from restart_guard.errors import GuardError
from restart_guard.host.files import user_name

_TIMEOUT_S = 60.0
NO_LINGER = (
    "timer: the units of a user stop when that user logs out",
    "loginctl enable-linger (it may need root), or install-timer --backend cron",
)
"""What is wrong, and what to do."""


def folder(environ: Mapping[str, str]) -> Path:
    """The folder of the system's units for root, else of the user's own (systemd.unit(5))."""
    if os.geteuid() == 0:
        return Path("/etc/systemd/system")
    return Path(environ.get("XDG_CONFIG_HOME") or paths.home() / ".config") / "systemd/user"


def runs_here() -> bool:
    """Whether systemd runs here, by the test of sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def require() -> None:
    """Raises GuardError where there is no systemd."""
    if shutil.which("systemctl") is None:
        raise GuardError("systemctl is not installed: use --backend cron, or see --backend print.")


def lingers() -> bool:
    """Whether the user's units run while the user is not logged in; root's always do (loginctl(1), enable-linger)."""
    return os.geteuid() == 0 or paths.exists(f"/var/lib/systemd/linger/{user_name(os.geteuid())}")


def enable(units: Sequence[str], changed: Sequence[str]) -> None:
    """Read the files and start the units, now and at each boot. A running unit whose file has changed is restarted.

    Raises GuardError.
    """
    if runs_here():
        _systemctl("daemon-reload")
        _systemctl("enable", "--now", *units)
        for unit in set(units) & set(changed):
            _systemctl("restart", unit)
    else:
        _systemctl("enable", *units)


def disable(units: Sequence[str]) -> None:
    """Stop the units and do not start them at boot. Programs that they have launched live on. Raises GuardError."""
    _systemctl("disable", *(["--now"] if runs_here() else []), *units)


def forget() -> None:
    """Make systemd notice that unit files are gone. Raises GuardError."""
    if runs_here():
        _systemctl("daemon-reload")


def _systemctl(*words: str) -> None:
    scope = [] if os.geteuid() == 0 else ["--user"]
    command = ["systemctl", *scope, *words]
    try:
        done = subprocess.run(
            command, capture_output=True, env=os.environ | {"LC_ALL": "C"}, check=False, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GuardError(f"systemctl could not be run: {error}.") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise GuardError(f"{' '.join(command)} failed (exit status {done.returncode}: {said}).")
