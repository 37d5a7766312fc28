"""Who a process is, and whether what it runs is a guarded program. Pure: the host modules look, this decides."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """A process, told from every other that had or will have its pid.

    ``started`` is the host's own figure (on Linux clock ticks since boot), ``boot`` tells one boot from the next.
    """

    pid: int
    started: int
    boot: str


class Facts(NamedTuple):
    """What the host's process table says of a pid."""

    pid: int
    name: str
    state: str
    parent: int
    group: int
    session: int
    started: int

    @property
    def dead(self) -> bool:
        """A zombie has ended; it only waits to be collected."""
        return self.state in "ZX"


class Program(NamedTuple):
    """How a target is recognised among all processes."""

    path: Path
    interpreter: str
    identify: str


_ALIASES = {"proc_exe": "exe", "proc_cwd": "cwd", "lsof_cwd": "cwd"}


class Look(NamedTuple):
    """What a process runs. Of another user's process often only the arguments can be read; the rest is None."""

    argv: Sequence[str]
    exe: Path | None
    cwd: Path | None

    def is_program(self, program: Program) -> bool | None:
        """By executable, by the interpreter's script argument, or by working directory and name.

        None: it looks like it and may not be looked at closely enough.
        """
        if not self.argv:
            return False  # a kernel thread
        ways = {"exe": self._by_exe, "argv": self._by_argv, "cwd": self._by_cwd}
        wanted = _ALIASES.get(program.identify, program.identify)
        found = [way(program) for way in (ways.values() if wanted == "auto" else [ways[wanted]])]
        return True if True in found else None if None in found else False

    def _by_exe(self, program: Program) -> bool | None:
        if self.exe is None:
            return None if Path(self.argv[0]).name == program.path.name else False
        return str(self.exe).removesuffix(" (deleted)") == str(program.path)

    def _by_argv(self, program: Program) -> bool | None:
        """The script is one of the first arguments, and what runs it is its interpreter: not an editor."""
        if _family(self._runner()) != _family(program.interpreter):
            return False
        words = [word for word in self.argv[1:] if not word.startswith("-")][:3]
        if self.cwd is None and not all(word.startswith("/") for word in words):
            return None if any(Path(word).name == program.path.name for word in words) else False
        return any(os.path.realpath((self.cwd or Path("/")) / word) == str(program.path) for word in words)

    def _by_cwd(self, program: Program) -> bool | None:
        runs_it = _family(self._runner()) in (_family(program.interpreter), _family(program.path.name))
        if not runs_it or not any(Path(word).name == program.path.name for word in self.argv[:4]):
            return False
        return None if self.cwd is None else self.cwd == program.path.parent

    def _runner(self) -> str:
        return self.exe.name if self.exe is not None else Path(self.argv[0]).name


def _family(name: str) -> str:
    """``python3.11`` and ``python`` are one interpreter."""
    return name.removesuffix(" (deleted)").rstrip("0123456789.")


def root(candidates: Sequence[Facts]) -> Facts | None:
    """Of a master with workers the master; of several, the oldest."""
    pids = {process.pid for process in candidates}
    tops = [process for process in candidates if process.parent not in pids]
    return min(tops, key=lambda process: (process.started, process.pid), default=None)


def successors(candidates: Sequence[Facts], ended: Identity | None) -> list[Facts]:
    """The candidates without the workers that a dead master has left behind.

    In the dead one's session only a process that has workers of its own took over, as in an upgrade in place; another
    session's is a daemon that it became, or was started by hand.
    """
    if ended is None:
        return list(candidates)
    parents = {process.parent for process in candidates}
    return [process for process in candidates if process.session != ended.pid or process.pid in parents]


def descendants(of: Iterable[int], everybody: Sequence[Facts]) -> list[Facts]:
    """Children, their children and so on."""
    family = set(of)
    found = [process for process in everybody if process.parent in family]
    while not {process.pid for process in found} <= family:
        family |= {process.pid for process in found}
        found = [process for process in everybody if process.parent in family]
    return found
