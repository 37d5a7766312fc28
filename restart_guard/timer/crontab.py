"""Reads and replaces the user's crontab by crontab(1), always as a whole."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from types import MappingProxyType

from restart_guard.errors import GuardError

_TIMEOUT_S = 30.0
# What crons say of a user without a crontab, all parts in one message. No other failure is read as an empty crontab.
_NONE_THERE = (
    (b"no crontab for ",),  # Debian's cron, cronie, dcron
    (b"can't open '", b"No such file or directory"),  # busybox
    (b"Crontab does not exist",),  # bcron
)


def exists() -> bool:
    """Whether this host has a crontab(1) at all."""
    return shutil.which("crontab") is not None


def read() -> bytes:
    """The whole crontab, empty if there is none. Raises GuardError."""
    done = _run("-l")
    if done.returncode == 0:
        return _with_true_ends(done.stdout)
    if not done.stdout and any(all(part in done.stderr for part in parts) for parts in _NONE_THERE):
        return b""
    raise GuardError(f"crontab -l failed ({_why(done)}); nothing was changed.")


def _with_true_ends(listed: bytes) -> bytes:
    r"""Debian's ``crontab -l`` shows a CR at the end of a line as the two letters \r, which a line may also really end
    with. ``crontab -e`` gives its editor the true bytes; an editor that only reads changes nothing. Raises
    GuardError."""
    lines = listed.split(b"\n")
    if not any(line.endswith(b"\\r") for line in lines):
        return listed
    done = _run("-e", environ={"VISUAL": "cat", "EDITOR": "cat"})
    if done.returncode != 0 or len(done.stdout.split(b"\n")) != len(lines):
        raise GuardError(f"crontab -e failed ({_why(done)}): it tells whether lines end with CR; nothing was changed.")
    return done.stdout if b"\r" in done.stdout else listed


def replace(old: bytes, new: bytes) -> None:
    """Replace the old crontab, which must still be there, by the new one. Raises GuardError."""
    if read() != old:
        raise GuardError("The crontab was changed by somebody else just now. Nothing was changed; try again.")
    done = _run("-r") if not new else None
    if done is None or done.returncode != 0:  # dcron has no -r
        done = _run("-", content=new)
    if done.returncode != 0 and b"'-'" in done.stderr:  # bcron takes a file only
        done = _run("/dev/stdin", content=new)
    if done.returncode != 0:
        raise GuardError(f"crontab refused the new crontab ({_why(done)}); the old one is still in place.")
    if read() != new:
        raise GuardError("The crontab is not what was written: look at crontab -l.")


def _run(
    *arguments: str, content: bytes = b"", environ: Mapping[str, str] = MappingProxyType({})
) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(
            ["crontab", *arguments],  # noqa: S607 (found on PATH, as everything that an operator runs)
            input=content,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C", **environ},
            check=False,
            timeout=_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise GuardError("crontab(1) is not installed: install cron, or see --backend print.") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GuardError(f"crontab could not be run: {error}; nothing was changed.") from error


def _why(done: "subprocess.CompletedProcess[bytes]") -> str:
    said = " ".join(done.stderr.decode(errors="replace").split())
    return f"exit status {done.returncode}" + (f": {said}" if said else "")
