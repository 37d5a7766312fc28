"""Reads and replaces the user's crontab by crontab(1), always as a whole."""

import os
import shutil
import subprocess

from restart_guard.errors import GuardError

_TIMEOUT_S = 30.0
# The first is from Debian's cron and cronie, the second from busybox. No other failure is read as an empty crontab.
_NONE_THERE = (b"no crontab for ", b"can't open '")


def exists() -> bool:
    """Whether this host has a crontab(1) at all."""
    return shutil.which("crontab") is not None


def read() -> bytes:
    """The whole crontab, empty if there is none. Raises GuardError."""
    done = _run("-l")
    if done.returncode == 0:
        return done.stdout
    if done.returncode == 1 and not done.stdout and _says_none(done.stderr):
        return b""
    raise GuardError(f"crontab -l failed ({_why(done)}); nothing was changed.")


def _says_none(said: bytes) -> bool:
    return _NONE_THERE[0] in said or (_NONE_THERE[1] in said and b"No such file or directory" in said)


def replace(old: bytes, new: bytes) -> None:
    """Replace the old crontab, which must still be there, by the new one. Raises GuardError."""
    if read() != old:
        raise GuardError("The crontab was changed by somebody else just now. Nothing was changed; try again.")
    done = _run("-", content=new) if new else _run("-r")
    if done.returncode != 0:
        raise GuardError(f"crontab refused the new crontab ({_why(done)}); the old one is still in place.")
    if read() != new:
        raise GuardError("The crontab is not what was written: look at crontab -l.")


def _run(*arguments: str, content: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(
            ["crontab", *arguments],  # noqa: S607 (found on PATH, as everything that an operator runs)
            input=content,
            capture_output=True,
            env=os.environ | {"LC_ALL": "C"},
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
