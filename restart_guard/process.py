"""Processes of this Linux host: who a pid is, which pids are a program, launching, signalling, waiting.

A pid is no identity, since the kernel gives it out again: pid, start time (field 22 of /proc/PID/stat, in ticks since
boot, proc(5)) and the boot's id are. A signal goes through a pidfd that was opened before the identity was verified:
a pidfd never comes to mean another process (pidfd_open(2)).
"""

import errno
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from restart_guard import clock
from restart_guard.errors import GuardError

_PROC = Path("/proc")
_LONGEST_POLL_MS = 2**31 - 1  # poll(2) takes an int: 24 days


class Identity(NamedTuple):
    """A process, told from every other that had or will have its pid."""

    pid: int
    started: int
    boot: str


class Facts(NamedTuple):
    """What /proc/PID/stat says. ``started`` is in clock ticks since boot."""

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


def boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError as error:
        raise GuardError("Programs can be guarded on Linux only: there is no /proc here.") from error


def facts(pid: int) -> Facts | None:
    """What a pid is now; None when there is no such process. Raises PermissionError when we may not look.

    With /proc mounted hidepid=2 another user's process is not there to see, but it can be told by pidfd_open.
    """
    try:
        text = (_PROC / str(pid) / "stat").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError) as error:
        if _exists(pid):
            raise PermissionError(errno.EACCES, "this process is hidden from us") from error
        return None
    # The name stands in parentheses and may hold anything, also parentheses and newlines.
    name, _, rest = text.partition("(")[2].rpartition(")")
    field = rest.split()
    return Facts(pid, name, field[0], int(field[1]), int(field[2]), int(field[3]), int(field[19]))


def _exists(pid: int) -> bool:
    try:
        os.close(os.pidfd_open(pid))
    except OSError as error:
        # EINVAL: a process that is just dying, or a thread.
        return error.errno not in (errno.ESRCH, errno.EINVAL)
    # It may have been between the two looks that it came to be.
    return not (_PROC / str(pid) / "stat").exists()


def identity(pid: int) -> Identity | None:
    """The identity of a living process. Raises PermissionError."""
    found = facts(pid)
    return None if found is None or found.dead else Identity(pid, found.started, boot_id())


def is_alive(who: Identity) -> bool:
    """Whether this very process lives. Raises PermissionError when we may not look."""
    return identity(who.pid) == who


@contextmanager
def opened(who: Identity) -> Iterator[int | None]:
    """A pidfd of this very process, or None when it has ended: opened first, then verified."""
    try:
        fd = os.pidfd_open(who.pid)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EINVAL):
            raise
        yield None
        return
    try:
        yield fd if is_alive(who) else None
    finally:
        os.close(fd)


def send(who: Identity, number: int) -> bool:
    """Signal this very process; False when it has ended. Raises PermissionError."""
    with opened(who) as fd:
        if fd is None:
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)
            return True
    return False


def wait(who: Identity, seconds: float) -> bool:
    """Wait until this process has ended; whether it has."""
    with opened(who) as fd:
        if fd is None:
            return True
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(min(max(0, round(seconds * 1000)), _LONGEST_POLL_MS)))


def everybody() -> Iterator[Facts]:
    """All processes that we may see, once."""
    for entry in os.scandir(_PROC):
        if entry.name.isdecimal():
            with suppress(OSError, IndexError, ValueError):
                found = facts(int(entry.name))
                if found is not None:
                    yield found


def kin(who: Identity) -> list[Facts]:
    """The living others that belong to a process: those of the session it leads, else its descendants.

    A program that somebody started by hand shares the session of a shell, whose other jobs are none of ours.
    """
    living = [found for found in everybody() if not found.dead and found.pid != who.pid]
    in_session = [found for found in living if found.session == who.pid]
    if in_session or leads_session(who.pid):
        return in_session
    family = {who.pid}
    found = [process for process in living if process.parent in family]
    while not {process.pid for process in found} <= family:
        family |= {process.pid for process in found}
        found = [process for process in living if process.parent in family]
    return found


def leads_session(pid: int) -> bool:
    found = facts(pid)
    return found is not None and found.session == pid


def search(programs: Mapping[str, Program]) -> dict[str, Identity | None]:
    """Which running process is each program, in one pass over all; of a master with workers the root.

    A name that is not in the answer does not run; None stands for one that may run where we may not look.
    """
    found: dict[str, list[Facts]] = {name: [] for name in programs}
    hidden: set[str] = set()
    own = os.getpid()
    for process in everybody():
        if process.dead or process.pid == own:
            continue
        with suppress(OSError):
            look = _Look(process.pid)
            for name, program in programs.items():
                match look.is_program(program):
                    case True:
                        found[name].append(process)
                    case None:
                        hidden.add(name)
    roots: dict[str, Identity | None] = dict.fromkeys(hidden)
    for name, candidates in found.items():
        pids = {process.pid for process in candidates}
        tops = [process for process in candidates if process.parent not in pids]
        if tops:
            oldest = min(tops, key=lambda process: (process.started, process.pid))
            roots[name] = Identity(oldest.pid, oldest.started, boot_id())
    return roots


def matches(pid: int, program: Program) -> bool | None:
    """Whether a pid is the program; None when it looks like it and may not be looked at closely enough."""
    try:
        return _Look(pid).is_program(program)
    except FileNotFoundError:
        return False
    except PermissionError:
        return None


class _Look:
    """What one process runs. Of another user's process only the arguments can be read; the rest is None."""

    def __init__(self, pid: int) -> None:
        base = _PROC / str(pid)
        self.argv = [os.fsdecode(word) for word in (base / "cmdline").read_bytes().split(b"\0")[:-1]]
        self.exe, self.cwd = _link(base / "exe"), _link(base / "cwd")

    def is_program(self, program: Program) -> bool | None:
        """By executable, by the interpreter's script argument, or by working directory and name."""
        if not self.argv:
            return False  # a kernel thread
        ways = {"exe": self._by_exe, "argv": self._by_argv, "cwd": self._by_cwd}
        aliases = {"proc_exe": "exe", "proc_cwd": "cwd", "lsof_cwd": "cwd"}
        wanted = aliases.get(program.identify, program.identify)
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


def _link(path: Path) -> Path | None:
    try:
        return path.readlink()
    except PermissionError:
        return None


def _family(name: str) -> str:
    """``python3.11`` and ``python`` are one interpreter."""
    return name.removesuffix(" (deleted)").rstrip("0123456789.")


class Launch(NamedTuple):
    """How a target is started; ``directory`` is its working directory."""

    argv: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    log_file: Path | None


def prepare_signals() -> None:
    """Programs are launched with default signal dispositions; called once, by the main thread.

    A signal that we ignore (under nohup, say) would be ignored by them too: a handler in its place ignores it for us,
    and is reset to the default at exec (signal(7)).
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _ignore)


def launch(how: Launch) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own that holds descriptors 0 to 2 only and nothing of ours.

    Raises OSError. ``prepare_signals`` must have been called.
    """
    output: int | None = None
    try:
        if how.log_file is not None:
            how.log_file.parent.mkdir(parents=True, exist_ok=True)
            output = os.open(how.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        return subprocess.Popen(
            how.argv,
            cwd=how.directory,
            env=how.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if output is None else output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        if output is not None:
            os.close(output)


def _ignore(_number: int, _frame: object) -> None:
    """Ignores a signal as SIG_IGN does, but for ourselves only."""


def end(who: Identity, number: int) -> None:
    """Signal a process and its kin. Raises PermissionError."""
    others = kin(who)
    send(who, number)
    for other in others:
        with suppress(PermissionError):
            send(Identity(other.pid, other.started, who.boot), number)


def wait_for_all(who: Identity, others: Sequence[Facts], seconds: float) -> list[Facts]:
    """Wait until a process, these others and its later kin have ended; those that are left when the time is up."""
    deadline = clock.monotonic() + seconds
    wait(who, seconds)
    while True:
        left = {found.pid: found for found in [*others, *kin(who)] if _lives(found)}
        found = facts(who.pid)
        if found is not None and found.started == who.started and not found.dead:
            left[who.pid] = found
        remaining = deadline - clock.monotonic()
        if not left or remaining <= 0:
            return list(left.values())
        first = next(iter(left.values()))
        wait(Identity(first.pid, first.started, who.boot), remaining)


def _lives(found: Facts) -> bool:
    now = facts(found.pid)
    return now is not None and now.started == found.started and not now.dead


def uptime_s(who: Identity) -> float:
    """Seconds since a process was started, time in suspend included."""
    return clock.boottime() - who.started / os.sysconf("SC_CLK_TCK")
