"""What is done between a bad read and the next: a command, a target's cold restart, or nothing."""

import os
import shlex
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from restart_guard import process, target
from restart_guard.freshness import span
from restart_guard.lifecycle import Command
from restart_guard.outcome import Attempt
from restart_guard.settings import Check, Config

_LOCK_WAIT_S = 10.0
_READ_BYTES = 65536
_TAIL_CHARACTERS = 500


def recover(config: Config, name: str, check: Check) -> Attempt:
    """Run the check's recovery once. What goes wrong is in the attempt, never raised."""
    kind, _, what = check.recover.partition(":")
    if kind == "none":
        return Attempt("none", "read_again")
    if kind == "command":
        return _command(config, name, check, what)
    if kind == "restart":
        return _restart(config, what)
    return Attempt(kind, "unavailable", check.recover)


def _restart(config: Config, name: str) -> Attempt:
    """A cold restart of a target, as restart --cold does it."""
    process.prepare_signals()
    done = target.act(target.guarded(name, config.targets[name]), Command.COLD, wait_s=_LOCK_WAIT_S)
    return Attempt("restart", "restarted" if done.ok and not done.busy else "not_restarted", name, done.text)


def _command(config: Config, name: str, check: Check, command: str) -> Attempt:
    """Run a command in a session of its own, in the config's directory.

    Its output goes to a file and not to a pipe: a daemon that it starts may hold a pipe open for ever.
    """
    environment = os.environ | {"RESTART_GUARD_CHECK": name}
    with _output() as output:
        try:
            child = subprocess.Popen(
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
            status = child.wait(check.recover_timeout)
        except subprocess.TimeoutExpired:
            _end(child)
            return Attempt("command", "timed_out", span(check.recover_timeout), _tail(config, output))
        except KeyboardInterrupt:
            _end(child)
            raise
        if status < 0:
            return Attempt("command", "signalled", _signal_name(-status), _tail(config, output))
        return Attempt("command", "exited", str(status), _tail(config, output))


def _output() -> IO[bytes]:
    """A nameless file; where none can be made, as on a full disk, what the command says is dropped."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return Path(os.devnull).open("r+b")


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Kill the command's group; one that became another user (sudo) cannot be killed and is left."""
    with suppress(PermissionError, ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        child.wait(2)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a realtime signal
        return f"signal {number}"


def _program(command: str) -> str:
    """Only the program: arguments may hold a secret."""
    return Path(shlex.split(command)[0]).name


def _tail(config: Config, output: IO[bytes]) -> str:
    """The end of what the command said, on one line; redacted before it is cut, so that no part of a secret is left."""
    try:
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - _READ_BYTES))
        said = config.redact(output.read().decode(errors="replace"))
    except OSError:
        return ""
    return " ".join(said[-_TAIL_CHARACTERS:].split())
