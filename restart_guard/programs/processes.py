"""Groups of processes: which belong to a program or to one another; launching, signalling, waiting."""

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from restart_guard import clock
from restart_guard.host import process_table
from restart_guard.host.identity import Facts, Identity, ProcessMatcher, descendants, root, successors

MARK = "RESTART_GUARD_PROGRAM"
"""In the environment of a target and of whatever it starts: the real path of its entry program."""


TICKET = "RESTART_GUARD_LAUNCH"
"""In the environment of a target: which launch it came from, known before it is launched."""


def is_alive(process: Identity) -> bool:
    """Whether exactly this process is alive. Raises PermissionError if we may not look."""
    return process_table.identity(process.pid) == process


def _lives(process: Facts) -> bool:
    now = process_table.facts(process.pid)
    return now is not None and now.started == process.started and not now.dead


def kin(process: Identity, program: Path | None = None) -> list[Facts]:
    """The living processes that belong to a process, alive or ended: its session if it led one, else its descendants;
    and all that carry its program's mark in a session of their own.

    A program that somebody started by hand shares the session of a shell, whose other jobs are not ours. Neither are we
    ourselves and our callers, if a target called us.
    """
    ours = _ancestors()
    living = [
        others
        for others in process_table.everybody()
        if not others.dead and others.pid != process.pid and others.pid not in ours
    ]
    leader = process_table.facts(process.pid)
    reused = leader is not None and leader.started != process.started
    # A session keeps its number from being given out again for as long as it has members (setsid(2), credentials(7)).
    others = [] if reused else [other for other in living if other.session == process.pid]
    if not others and not reused and leader is not None and leader.session != process.pid:
        others = descendants([process.pid], living)
    family = {member.pid: member for member in others}
    is_fenced = not reused and is_fence(process.pid)
    if is_fenced:  # a fence is the subreaper of all its descendants, also of daemons
        family |= {member.pid: member for member in descendants([process.pid], living)}
    if program is not None:
        mark = str(program)
        family |= {member.pid: member for member in living if process_table.environment_entry(member.pid, MARK) == mark}
    return [member for member in family.values() if not (is_fenced and is_fence(member.pid))]


def _ancestors() -> set[int]:
    """This process and its ancestors."""
    pids: set[int] = set()
    pid = os.getpid()
    while pid > 1 and pid not in pids:
        pids.add(pid)
        try:
            process = process_table.facts(pid)
        except PermissionError:
            break
        pid = process.parent if process is not None else 0
    return pids


def was_launched_as(pid: int, program: Path) -> bool:
    """Whether we launched this process as the program: it leads its session and carries the program's mark."""
    process = process_table.facts(pid)
    return process is not None and process.session == pid and process_table.environment_entry(pid, MARK) == str(program)


def may_have_kin(process: Identity) -> bool:
    """Whether anything may be left of the process group that an ended process led; costs almost nothing.

    A zombie counts, since kill(2) finds it too.
    """
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def living_sessions() -> set[int]:
    """The sessions that have living members, in one scan of the process table."""
    return {process.session for process in process_table.everybody() if not process.dead}


def search(
    programs: Mapping[str, ProcessMatcher], ended: Mapping[str, Identity | None], tickets: Mapping[str, str]
) -> dict[str, Identity | None]:
    """The running process of each program, in one scan of the process table; of a master with workers the master.

    ``ended`` are the recorded processes of the programs: workers of a dead master are not the program. ``tickets`` are
    of launches that may have been interrupted before they were recorded: a process that carries one is the program,
    whatever it looks like. A name that is not in the answer does not run; None stands for one that may run where we may
    not look.
    """
    candidates_of: dict[str, list[Facts]] = {name: [] for name in programs}
    launched: dict[str, list[Facts]] = {name: [] for name in tickets}
    names = {ticket: name for name, ticket in tickets.items()}
    hidden: set[str] = set()
    own = os.getpid()
    index = _by_file_name(programs)
    for process in process_table.everybody():
        if process.dead or process.pid == own:
            continue
        with suppress(OSError):
            look = process_table.look(process.pid)
            if names and process.session == process.pid:
                carrier = names.get(process_table.environment_entry(process.pid, TICKET) or "")
                if carrier is not None:
                    launched[carrier].append(process)
            for name in look.candidates(index):
                match look.is_program(programs[name]):
                    case True:
                        candidates_of[name].append(process)
                    case None:
                        hidden.add(name)
    roots: dict[str, Identity | None] = dict.fromkeys(hidden)
    for name, candidates in candidates_of.items():
        first = root(launched.get(name, [])) or root(successors(candidates, ended.get(name)))
        if first is not None:
            roots[name] = Identity(first.pid, first.started, process_table.boot_id())
    return roots


def _by_file_name(programs: Mapping[str, ProcessMatcher]) -> dict[str, list[str]]:
    """The programs that a file name can stand for. Most processes match none of them, which is quickly seen."""
    index: dict[str, list[str]] = {}
    for name, program in programs.items():
        for file_name in program.file_names:
            index.setdefault(file_name, []).append(name)
    return index


def matches(pid: int, program: ProcessMatcher) -> bool | None:
    """Whether a pid is the program; None if it looks like it and we may not look closely enough."""
    try:
        return process_table.look(pid).is_program(program)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:
        return None


FENCE = "RESTART_GUARD_FENCE"
"""In the environment of a fence and its second process, and not of what is behind them: which variables that gets
otherwise, as JSON."""


def is_fence(pid: int) -> bool:
    """Whether this process is a fence: it stands between us and a target of a standby group."""
    return process_table.environment_entry(pid, FENCE) is not None


def behind_fence(process: Identity) -> Identity:
    """The program itself: the oldest child of its fence, if there is a fence."""
    if not is_fence(process.pid):
        return process
    children = [
        member
        for member in process_table.everybody()
        if member.parent == process.pid and member.session == process.pid and not member.dead
    ]
    # A child that has not yet executed the program still looks like the fence.
    children = [member for member in children if not is_fence(member.pid)]
    first = min(children, key=lambda member: member.started, default=None)
    return process if first is None else Identity(first.pid, first.started, process.boot)


def of_launch(process: Identity, ticket: str) -> list[Facts]:
    """The other living processes of a process's session, and those that carry its launch's ticket; not we ourselves."""
    others_of_session = {member.pid: member for member in kin(process)}
    others = [
        member
        for member in process_table.everybody()
        if not member.dead and member.pid not in (process.pid, os.getpid())
    ]
    carriers = [member for member in others if ticket and process_table.environment_entry(member.pid, TICKET) == ticket]
    return list({**others_of_session, **{member.pid: member for member in carriers}}.values())


class Launch(NamedTuple):
    """Options of a launch; ``directory`` is its working directory, ``umask`` is -1 for ours.

    ``user`` is (uid, gid, other groups) of another user, for root only.
    """

    argv: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    log_file: Path | None
    umask: int = -1
    user: tuple[int, int, Sequence[int]] | None = None


def prepare() -> None:
    """Make this process ready to launch programs that inherit nothing of ours; called once, by the main thread.

    They get default signal dispositions: a signal that we ignore (under nohup, say) would be ignored by them too, so a
    handler that does nothing replaces it, and is reset to the default at exec (signal(7)). Blocked signals are
    inherited too (sigprocmask(2)), and so is every descriptor that our own parent left open for us; those that Python
    opens are not (PEP 446).
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 (a descriptor is not a path)
        if int(name) > 2:
            with suppress(OSError):
                os.set_inheritable(int(name), False)  # noqa: FBT003 (it takes no keyword)


def _ignore(_number: int, _frame: object) -> None:
    """Ignores a signal as SIG_IGN does, but for ourselves only."""


def launch(spec: Launch) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own that holds descriptors 0 to 2 only and nothing of ours.

    Raises OSError. ``prepare`` must have been called.
    """
    output: int | None = None
    try:
        if spec.log_file is not None:
            output = _open_log(spec.log_file)
            os.set_blocking(output, True)
        uid, gid, groups = spec.user or (None, None, None)
        return subprocess.Popen(
            spec.argv,
            cwd=spec.directory,
            env=spec.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if output is None else output,
            stderr=subprocess.STDOUT,
            close_fds=False,  # after prepare() there is nothing to close, and searching would take time
            start_new_session=True,
            umask=spec.umask,
            user=uid,
            group=gid,
            extra_groups=groups,
        )
    finally:
        if output is not None:
            os.close(output)


def _open_log(path: Path) -> int:
    # Non-blocking while it is opened: a FIFO that nobody reads would hold us up for ever.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o644)


def end(process: Identity, others: Iterable[Facts], number: int) -> None:
    """Signal a process and others with it, also stopped ones. Raises PermissionError for the first.

    A fence would pass on to its target what that already gets as one of the others; so the fence itself is only
    signalled while there is no target yet.
    """
    others = list(others)
    if number == signal.SIGKILL or not is_fence(process.pid):
        _signal(process, number)
    else:
        process_table.send(process, signal.SIGCONT)
        program = behind_fence(process)
        if program.pid not in {other.pid for other in others}:  # it has only just begun
            _signal(program, number)
    for other in others:
        with suppress(PermissionError):
            _signal(Identity(other.pid, other.started, process.boot), number)


def _signal(process: Identity, number: int) -> None:
    # A stopped process (SIGSTOP, Ctrl-Z) receives only KILL before it is continued (signal(7)).
    if process_table.send(process, number) and number != signal.SIGKILL:
        process_table.send(process, signal.SIGCONT)


def left_of(process: Identity, others: Sequence[Facts], program: Path | None) -> list[Facts]:
    """The processes that still live, of a process, these others and its later kin."""
    left = {leader.pid: leader for leader in [*others, *kin(process, program)] if _lives(leader)}
    leader = process_table.facts(process.pid)
    if leader is not None and leader.started == process.started and not leader.dead:
        left = {process.pid: leader, **left}
    return list(left.values())


def wait_for_all(process: Identity, others: Sequence[Facts], program: Path | None, seconds: float) -> list[Facts]:
    """Wait until a process, these others and its later kin have ended. Returns those that are left then."""
    deadline = clock.monotonic() + seconds
    process_table.wait(process, seconds)
    while True:
        left = left_of(process, others, program)
        remaining = deadline - clock.monotonic()
        if not left or remaining <= 0:
            return left
        first = left[0]
        process_table.wait(Identity(first.pid, first.started, process.boot), remaining)
