import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from restart_guard import clock
from restart_guard.commands.parameters import pass_session
from restart_guard.config.options import Config
from restart_guard.config.wording import suggestion
from restart_guard.errors import GuardError, UsageError
from restart_guard.host.files import Files
from restart_guard.host.rotation import CUT_HERE
from restart_guard.programs import operate
from restart_guard.session import Session
from restart_guard.timer.jobs import jobs

_LINE_BYTES = 2000
_FOLLOW_S = 0.3


@click.command("logs")
@click.argument("name", metavar="[TARGET]", required=False)
@click.option("-n", "limit", type=click.IntRange(0, 100_000), default=20, show_default=True, help="How many lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, also across a rotation, until Ctrl-C.")
@click.option("--job", help="The log of a job of the timer: check-redis, restart, watch, refresh, standby.")
@pass_session
def command(session: Session, *, name: str | None, limit: int, follow: bool, job: str | None) -> None:
    """Show the end of the log of TARGET, or of all targets that have one."""
    if job is not None and name is not None:
        raise UsageError("--job and a TARGET exclude each other.")
    logs = _of_job(session.config, job) if job is not None else _of_targets(session.config, name)
    many = len(logs) > 1
    for log in logs:
        if many and (limit or not follow):
            session.terminal.report(f"==> {log.path} <==")
        for line in log.end(limit):
            session.terminal.report(line)
    while follow and session.terminal.write_error is None:
        for log in logs:
            for line in log.more():
                session.terminal.report(f"{log.name}: {line}" if many else line)
        clock.sleep(_FOLLOW_S)


def _of_targets(config: Config, name: str | None) -> list["_Log"]:
    targets = operate.chosen(config, [name] if name is not None else [])
    logs = [
        _Log(target.name, path, target.files(path))
        for target in targets
        if (path := target.settings.log_file) is not None
    ]
    if not logs:
        raise GuardError(f"{name or 'No target'} has {'no' if name else 'a'} log_file in {config.path}.")
    return logs


def _of_job(config: Config, name: str) -> list["_Log"]:
    known = {words[0]: job.log for job in jobs(config, watch=True) if (words := job.words[job.words.index("-c") + 2 :])}
    if name not in known:
        raise UsageError(f"The timer of {config.path} has no job {name}{suggestion(name, list(known))}.")
    errors = known[name].with_name("crontab_error.log")
    return [_Log(name, known[name], Files()), _Log("errors", errors, Files())]


class _Log:
    """A log and how far it was read. A rotation shows by its copy, ``.1``, being another file than before."""

    def __init__(self, name: str, path: Path, files: Files) -> None:
        self.name = name
        self.path = path
        self._files = files
        self._at = 0
        self._inode = 0
        self._copy = self._inode_of_copy()
        self._begun = b""

    def end(self, lines: int) -> list[str]:
        """Its last lines. Raises GuardError if it cannot be read."""
        try:
            with self._opened(self.path) as fd:
                status = os.fstat(fd)
                self._at, self._inode = status.st_size, status.st_ino
                start = max(0, status.st_size - lines * _LINE_BYTES)
                found = os.pread(fd, status.st_size - start, start)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise GuardError(f"{self.path} cannot be read: {error.strerror}.") from error
        return found.decode(errors="replace").splitlines()[-lines:] if lines else []

    def more(self) -> Iterator[str]:
        """The whole lines that were written since, across a rotation."""
        with suppress(OSError), self._opened(self.path) as fd:
            status, copy = os.fstat(fd), self._inode_of_copy()
            if copy != self._copy and status.st_ino == self._inode:
                with suppress(OSError), self._opened(self._path_of_copy()) as rest:
                    yield from self._read(rest)
            if copy != self._copy or status.st_ino != self._inode or status.st_size < self._at:
                self._at, self._inode, self._copy, self._begun = 0, status.st_ino, copy, b""
            yield from self._read(fd)

    def _read(self, fd: int) -> Iterator[str]:
        while part := os.pread(fd, 1 << 16, self._at):
            self._at += len(part)
            *whole, self._begun = (self._begun + part).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole if not line.startswith(CUT_HERE))

    def _path_of_copy(self) -> Path:
        return self.path.with_name(f"{self.path.name}.1")

    def _inode_of_copy(self) -> int:
        try:
            return os.stat(self._path_of_copy()).st_ino  # noqa: PTH116
        except OSError:
            return 0

    @contextmanager
    def _opened(self, path: Path) -> Iterator[int]:
        fd = self._files.open(self._files.place(path))
        try:
            yield fd
        finally:
            os.close(fd)
