"""The identity of a process, and whether it runs a guarded program. Pure: the process table looks, this decides."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from restart_guard.host.interpreters import script_index
from restart_guard.paths import real


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
    """How a target is recognised among processes that no launch of ours started.

    ``runners`` gives the names that its process may run under (its interpreter, the program that a wrapper starts),
    ``before`` the words of its command between the first one and the program, ``alias`` the program's file name in the
    config, ``arguments`` gives the words after the program,
    ``directory`` is where it is started.
    """

    path: Path
    runners: Callable[[], frozenset[str]]
    identify: str
    before: tuple[str, ...] = ()
    alias: str = ""
    arguments: Callable[[], tuple[str, ...]] = tuple
    directory: Path | None = None

    @property
    def file_names(self) -> set[str]:
        """The program's own file name, and that of the link in the config."""
        return {self.path.name, self.alias or self.path.name}


_ALIASES = {"proc_exe": "exe", "proc_cwd": "cwd", "lsof_cwd": "cwd"}


class Look(NamedTuple):
    """The command line, executable and working directory of a process. For another user's process often only the
    command line can be read; the rest is None."""

    argv: Sequence[str]
    exe: Path | None
    cwd: Path | None

    def candidates(self, index: Mapping[str, Sequence[str]]) -> set[str]:
        """The programs of an index by file name that this process may be."""
        words = [word.rpartition("/")[2] for word in self.argv]
        if self.exe is not None:
            words.append(self.exe.name.removesuffix(" (deleted)"))
        return {name for word in words for name in index.get(word, ())}

    def is_program(self, program: ProcessMatcher) -> bool | None:
        """Whether it is the program: by executable, by the interpreter's script argument, or by working directory and
        name.

        None: it looks like the program, and we may not look closely enough.
        """
        answers = [answer for answer, _ in self._answers(program)]
        return True if True in answers else None if None in answers else False

    def is_as_configured(self, program: ProcessMatcher) -> bool:
        """Whether it is the program with the same arguments; paths among them may be written in another way."""
        return any(
            answer and self._are_same(self.argv[index + 1 :], program.arguments())
            for answer, index in self._answers(program)
        )

    def _answers(self, program: ProcessMatcher) -> list[tuple[bool | None, int]]:
        """The answer of each way to identify, with the index of the word that is the program."""
        if not self.argv:
            return []  # a kernel thread
        ways = {"exe": self._by_exe, "argv": self._by_argv, "cwd": self._by_cwd}
        wanted = _ALIASES.get(program.identify, program.identify)
        return [way(program) for way in (ways.values() if wanted == "auto" else [ways[wanted]])]

    def _are_same(self, words: Sequence[str], wanted: Sequence[str]) -> bool:
        return len(words) == len(wanted) and all(map(self._is_same, words, wanted))

    def _is_same(self, word: str, other: str) -> bool:
        if word == other or self.cwd is None or "/" not in word + other:
            return word == other
        return real(self.cwd / word) == real(self.cwd / other)

    def _by_exe(self, program: ProcessMatcher) -> tuple[bool | None, int]:
        if self.exe is None:
            return None if Path(self.argv[0]).name == program.path.name else False, 0
        return str(self.exe).removesuffix(" (deleted)") == str(program.path), 0

    def _by_argv(self, program: ProcessMatcher) -> tuple[bool | None, int]:
        """The process is an interpreter of the program, and the program is its script: not a file in an editor, or a
        linter's argument."""
        if unversioned(self._runner()) not in program.runners():
            return False, 0
        for index in self._scripts(program):
            word = self.argv[index]
            if self.cwd is None and not word.startswith("/"):
                if Path(word).name == program.path.name:
                    return None, index
            elif real((self.cwd or Path("/")) / word) == str(program.path):
                return True, index
        return False, 0

    def _by_cwd(self, program: ProcessMatcher) -> tuple[bool | None, int]:
        indexes = self._scripts(program) if unversioned(self._runner()) in program.runners() else []
        for index in [*indexes, 0]:
            if Path(self.argv[index]).name == program.path.name:
                return None if self.cwd is None else self.cwd == (program.directory or program.path.parent), index
        return False, 0

    def _scripts(self, program: ProcessMatcher) -> list[int]:
        """Where the program may be: the interpreter's script argument, and the place in the target's own command."""
        place = len(program.before) + 1
        is_own = tuple(self.argv[1:place]) == program.before and place < len(self.argv)
        script = script_index(unversioned(self._runner()), self.argv)
        return [*([place] if is_own else []), *([script] if script is not None else [])]

    def _runner(self) -> str:
        return self.exe.name if self.exe is not None else Path(self.argv[0]).name


def unversioned(name: str) -> str:
    """The name without its version: ``python3.11`` and ``python`` are one interpreter."""
    return name.removesuffix(" (deleted)").rstrip("0123456789.")


def oldest_top(processes: Sequence[Facts]) -> Facts | None:
    """The master of its workers; of several masters, the oldest. None if there are none."""
    pids = {process.pid for process in processes}
    tops = [process for process in processes if process.parent not in pids]
    return min(tops, key=lambda process: (process.started, process.pid), default=None)
