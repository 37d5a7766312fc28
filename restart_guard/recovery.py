"""What is done between a bad read and the next: a command, or nothing. The seam that ``recover`` names."""

import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from restart_guard.freshness import span
from restart_guard.outcome import Attempt
from restart_guard.settings import Check, Config

_TAIL_BYTES = 500


def recover(config: Config, name: str, check: Check) -> Attempt:
    """Run the check's recovery once. What goes wrong is in the attempt, never raised."""
    kind, _, what = check.recover.partition(":")
    if kind == "none":
        return Attempt("none", "read_again")
    if kind == "command":
        return _command(config, name, check, what)
    return Attempt(kind, "unavailable", check.recover)


def _command(config: Config, name: str, check: Check, command: str) -> Attempt:
    """Run a command in a session of its own, in the config's directory.

    Its output goes to a file and not to a pipe: a daemon that it starts may hold a pipe open for ever.
    """
    environment = os.environ | {"RESTART_GUARD_CHECK": name}
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=config.path.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            return Attempt("command", "not_started", f"{_program(command)}: {why}")
        try:
            status = process.wait(check.recover_timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Attempt("command", "timed_out", span(check.recover_timeout), _tail(output))
        if status < 0:
            return Attempt("command", "signalled", signal.Signals(-status).name, _tail(output))
        return Attempt("command", "exited", str(status), _tail(output))


def _program(command: str) -> str:
    """Only the program: arguments may hold a secret."""
    return Path(shlex.split(command)[0]).name


def _tail(output: IO[bytes]) -> str:
    """The end of what the command said, on one line."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _TAIL_BYTES))
    return " ".join(output.read().decode(errors="replace").split())
