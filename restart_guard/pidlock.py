"""The pid lock, ``<program>.pid``: the pid and a newline. Its presence means that the program should be running.

Beside it, ``.<program>.lock`` is what excludes others while one acts on the program: it belongs to the program and not
to a state directory, so that any user and any config meet there. It also holds the identity of the process that was
launched, which a pid alone is not. It is never removed: a lock on a removed file excludes nobody.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from restart_guard import clock
from restart_guard.errors import BusyError, GuardError
from restart_guard.process import Identity

_LARGEST = 64


class PidLock:
    """The files of one program."""

    def __init__(self, program: Path) -> None:
        self.path = program.with_name(program.name + ".pid")
        self.guard_path = program.with_name(f".{program.name}.lock")

    def is_there(self) -> bool:
        return os.path.lexists(self.path)

    def read(self) -> int | None:
        """The pid; None for a lock that is missing, unreadable or no number: the program is then searched for."""
        try:
            with self.path.open("rb") as file:
                text = file.read(_LARGEST).strip()
        except OSError:
            return None
        return int(text) if text.isdigit() and 0 < int(text) < 2**22 + 1 else None

    def write(self, pid: int) -> None:
        """Write it at once: a reader sees the old or the new whole. Raises GuardError."""
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            with new.open("w") as file:
                file.write(f"{pid}\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            raise GuardError(f"The pid lock {self.path} cannot be written: {error.strerror}.") from error

    def remove(self) -> None:
        """Raises GuardError."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise GuardError(f"The pid lock {self.path} cannot be removed: {error.strerror}.") from error

    @contextmanager
    def held(self, *, wait_s: float) -> Iterator[None]:
        """Exclude everybody else from acting on the program. Raises BusyError after the wait, GuardError."""
        fd = self._open()
        try:
            self._lock(fd, wait_s)
            yield
        finally:
            os.close(fd)

    def _open(self) -> int:
        with suppress(OSError):
            # Locking needs no right to write, so a file of another user will do.
            return os.open(self.guard_path, os.O_RDONLY)
        try:
            fd = os.open(self.guard_path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise GuardError(f"The lock {self.guard_path} cannot be opened: {error.strerror}.") from error
        with suppress(OSError):
            os.fchmod(fd, 0o644)  # whatever the umask: other users must be able to meet here
        return fd

    def _lock(self, fd: int, wait_s: float) -> None:
        deadline = clock.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    raise GuardError(f"The lock {self.guard_path} cannot be taken: {error.strerror}.") from error
                if clock.monotonic() >= deadline:
                    text = f"Somebody else is acting on {self.path.stem} right now; nothing was changed."
                    raise BusyError(text) from error
                clock.sleep(0.02)
            else:
                return

    def recorded(self) -> Identity | None:
        """The identity of the process that was launched or adopted last; None where none is known."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            record = msgspec.json.decode(self.guard_path.read_bytes())
            return Identity(int(record["pid"]), int(record["started"]), str(record["boot"]))
        return None

    def record(self, who: Identity) -> None:
        """Keep the identity; only while the lock is held. Best effort: without it the program is searched for.

        Written in place and not renamed over, since the file is what others lock; a torn write is no JSON.
        """
        with suppress(OSError), self.guard_path.open("r+") as file:
            file.write(msgspec.json.encode(who._asdict()).decode() + "\n")
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
