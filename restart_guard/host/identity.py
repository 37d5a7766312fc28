"""The identity of a process, and whether it runs a guarded program. Pure: the process table looks, this decides."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """A process, distinct from every other process that had or will have its pid.

    ``started`` is the host's own figure (on Linux clock ticks since boot); ``boot`` distinguishes one boot from the
    next.
    """

    pid: int
    started: int
    boot: str


class Facts(NamedTuple):
    """A pid's entry in the host's process table."""

    pid: int
    name: str
    state: str
    parent: int
    group: int
    session: int
    started: int

    @property
    def dead(self) -> bool:
        """A zombie has ended; it only waits to be reaped."""
        return self.state in "ZX"


class ProcessMatcher(NamedTuple):
    """How a target is recognised among all processes.

    ``runners`` gives the names that its process may run under (its interpreter, the program that a wrapper starts),
    ``before`` the words of its command between the first one and the program, ``alias`` the program's file name in the
    config.
    """

    path: Path
    runners: Callable[[], frozenset[str]]
    identify: str
    before: tuple[str, ...] = ()
    alias: str = ""

    @property
    def file_names(self) -> set[str]:
        """The program's own file name, and that of the link in the config."""
        return {self.path.name, self.alias or self.path.name}


_NO_SCRIPT = ("-c", "-m")  # code or a module follows, and after it its arguments
_WITH_VALUE = ("-W", "-X")
_LOOKED_AT = 16
_ALIASES = {"proc_exe": "exe", "proc_cwd": "cwd", "lsof_cwd": "cwd"}


class Look(NamedTuple):
    """The command line, executable and working directory of a process. For another user's process often only the
    command line can be read; the rest is None."""

    argv: Sequence[str]
    exe: Path | None
    cwd: Path | None

    def candidates(self, index: Mapping[str, Sequence[str]]) -> set[str]:
        """The programs of an index by file name that this process may be."""
        words = [word.rpartition("/")[2] for word in self.argv[:_LOOKED_AT]]
        if self.exe is not None:
            words.append(self.exe.name.removesuffix(" (deleted)"))
        return {name for word in words for name in index.get(word, ())}

    def is_program(self, program: ProcessMatcher) -> bool | None:
        """Whether it is the program: by executable, by the interpreter's script argument, or by working directory and
        name.

        None: it looks like the program, and we may not look closely enough.
        """
        if not self.argv:
            return False  # a kernel thread
        ways = {"exe": self._by_exe, "argv": self._by_argv, "cwd": self._by_cwd}
        wanted = _ALIASES.get(program.identify, program.identify)
        answers = [way(program) for way in (ways.values() if wanted == "auto" else [ways[wanted]])]
        return True if True in answers else None if None in answers else False

    def _by_exe(self, program: ProcessMatcher) -> bool | None:
        if self.exe is None:
            return None if Path(self.argv[0]).name == program.path.name else False
        return str(self.exe).removesuffix(" (deleted)") == str(program.path)

    def _by_argv(self, program: ProcessMatcher) -> bool | None:
        """The process is an interpreter of the program, and the program is its script: not a file in an editor, or a
        linter's argument."""
        if family(self._runner()) not in program.runners():
            return False
        for word in self._scripts(program):
            if self.cwd is None and not word.startswith("/"):
                if Path(word).name == program.path.name:
                    return None
            elif os.path.realpath((self.cwd or Path("/")) / word) == str(program.path):
                return True
        return False

    def _by_cwd(self, program: ProcessMatcher) -> bool | None:
        words = self._scripts(program) if family(self._runner()) in program.runners() else []
        if not any(Path(word).name == program.path.name for word in [*words, self.argv[0]]):
            return False
        return None if self.cwd is None else self.cwd == program.path.parent

    def _scripts(self, program: ProcessMatcher) -> list[str]:
        """The interpreter's script argument, and the word at the program's place in the target's own command."""
        words, place = list(self.argv[1:]), len(program.before)
        own = words[place : place + 1] if tuple(words[:place]) == program.before else []
        while words and words[0].startswith("-"):
            if words[0] in _NO_SCRIPT:
                return own
            del words[: 2 if words[0] in _WITH_VALUE else 1]
        return own + words[:1]

    def _runner(self) -> str:
        return self.exe.name if self.exe is not None else Path(self.argv[0]).name


def family(name: str) -> str:
    """The name without its version: ``python3.11`` and ``python`` are one interpreter."""
    return name.removesuffix(" (deleted)").rstrip("0123456789.")


def root(candidates: Sequence[Facts]) -> Facts | None:
    """The master of its workers; of several masters, the oldest."""
    pids = {process.pid for process in candidates}
    tops = [process for process in candidates if process.parent not in pids]
    return min(tops, key=lambda process: (process.started, process.pid), default=None)


def successors(candidates: Sequence[Facts], ended: Identity | None) -> list[Facts]:
    """The candidates without the workers of a dead master.

    In the session of the dead process only a process with workers of its own took over, as in an upgrade in place. A
    process in another session is a daemon that the program became, or was started by hand.
    """
    if ended is None:
        return list(candidates)
    parents = {process.parent for process in candidates}
    return [process for process in candidates if process.session != ended.pid or process.pid in parents]


def descendants(of: Iterable[int], everybody: Sequence[Facts]) -> list[Facts]:
    """The children of these processes, their children and so on."""
    pids = set(of)
    members = [process for process in everybody if process.parent in pids]
    while not {process.pid for process in members} <= pids:
        pids |= {process.pid for process in members}
        members = [process for process in everybody if process.parent in pids]
    return members
