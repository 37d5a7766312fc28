"""Runs the operator's commands to their end: recoveries, pre_stop, reload_command and health commands."""

import fcntl
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from restart_guard import clock
from restart_guard.durations import span
from restart_guard.errors import why_not_started
from restart_guard.host import children
from restart_guard.host.files import Account

if TYPE_CHECKING:
    from subprocess import Popen

_READ_BYTES = 65536
_MOST_BYTES = 1 << 20
_LOOK_S = 0.1
_TAIL_CHARACTERS = 500


class CommandResult(NamedTuple):
    """The result of a command: ``how`` is exited, signalled, timed_out or not_started, ``detail`` the status, signal,
    time or reason, ``said`` the end of its output on one line."""

    how: str
    detail: str
    said: str = ""

    @property
    def ok(self) -> bool:
        return (self.how, self.detail) == ("exited", "0")

    def __str__(self) -> str:
        words = {
            "exited": f"exit status {self.detail}",
            "signalled": f"ended by {self.detail}",
            "timed_out": f"not done within {self.detail}, killed",
            "not_started": f"could not be started: {self.detail}",
        }
        return words[self.how] + (f": {self.said}" if self.said else "")


class Hook(NamedTuple):
    """A command and where it runs. ``user`` is another account, for root only."""

    words: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    timeout_s: float
    user: Account | None = None


def run(hook: Hook, redact: Callable[[str], str] = str) -> CommandResult:
    """Run a command in a session of its own. If it takes longer than its time, its process group is killed.

    Its output goes to a file and not to a pipe: a daemon that it starts may hold a pipe open for ever.
    """
    # An idle tick runs no commands, and this is a twentieth of it.
    from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired

    uid, gid, groups = hook.user or (None, None, None)
    with _output() as output:
        try:
            child = children.start(
                lambda: Popen(
                    hook.words,
                    cwd=hook.directory,
                    env=hook.environment,
                    stdin=DEVNULL,
                    stdout=output,
                    stderr=STDOUT,
                    start_new_session=True,
                    user=uid,
                    group=gid,
                    extra_groups=groups,
                )
            )
        except (OSError, ValueError) as error:
            why = why_not_started(error) if isinstance(error, OSError) else str(error)
            # Only the program: arguments may hold a secret.
            return CommandResult("not_started", f"{Path(hook.words[0]).name}: {why}")
        before = b""
        deadline = clock.monotonic() + hook.timeout_s
        try:
            while True:
                left_s = max(0.0, deadline - clock.monotonic())
                with suppress(TimeoutExpired):
                    status = child.wait(min(_LOOK_S, left_s))
                    break
                if left_s <= 0:
                    _end(child)
                    return CommandResult("timed_out", span(hook.timeout_s), _tail(output, before, redact))
                before = _bounded(output, before)
        except KeyboardInterrupt:
            _end(child)
            raise
        said = _tail(output, before, redact)
        return (
            CommandResult("signalled", signal_name(-status), said)
            if status < 0
            else CommandResult("exited", str(status), said)
        )


def _output() -> IO[bytes]:
    """A file without a name. If none can be made, as on a full disk, the command's output is dropped."""
    # It brings the decompressors of the standard library, which a tick must not pay for.
    from tempfile import TemporaryFile

    try:
        file: IO[bytes] = TemporaryFile()  # noqa: SIM115 (the caller closes it)
    except OSError:
        return Path(os.devnull).open("r+b")
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)  # after it was cut short the command writes at its end
    return file


def _end(child: "Popen[bytes]") -> None:
    """Kill the command's process group. A group that became another user (sudo) cannot be killed and is left."""
    # As in run().
    from subprocess import TimeoutExpired

    with suppress(PermissionError, ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(TimeoutExpired):
        child.wait(2)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a realtime signal
        return f"signal {number}"


def _bounded(output: IO[bytes], before: bytes) -> bytes:
    """Keep the file of the output small, so that a command that talks for hours fills no disk. Returns the end of what
    was in it, or ``before`` if it is still small."""
    try:
        if os.fstat(output.fileno()).st_size <= _MOST_BYTES:
            return before
        kept = _end_of(output)
        os.ftruncate(output.fileno(), 0)
    except OSError:
        return before
    return kept


def _end_of(output: IO[bytes]) -> bytes:
    size = os.fstat(output.fileno()).st_size
    return os.pread(output.fileno(), _READ_BYTES, max(0, size - _READ_BYTES))


def _tail(output: IO[bytes], before: bytes, redact: Callable[[str], str]) -> str:
    """The end of the output. It is redacted before it is cut, so that no part of a secret is left."""
    try:
        said = redact((before + _end_of(output))[-_READ_BYTES:].decode(errors="replace"))
    except OSError:
        return ""
    return " ".join(said[-_TAIL_CHARACTERS:].split())
