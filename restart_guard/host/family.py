"""The family of a launch: the processes that it started, by lineage. docs/lineage.md has the rule."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from restart_guard.host import process_table
from restart_guard.host.identity import Facts, Identity, oldest_top

_PREFIX = "RESTART_GUARD_"

MARK = "RESTART_GUARD_PROGRAM"
"""In the environment of a target and of whatever it starts: the real path of its entry program."""

TICKET = "RESTART_GUARD_LAUNCH"
"""In the environment of a target and of whatever it starts: which launch it came from, known before it is launched."""

TARGET = "RESTART_GUARD_TARGET"
"""In the environment of a target, of whatever it starts, and of commands about it: its name."""

FENCE = "RESTART_GUARD_FENCE"
"""In the environment of a fence and its second process, and not of what is behind them: which variables that gets
otherwise, as JSON."""


class Session(NamedTuple):
    """A session; ``started`` is the start time of its leader, 0 if that had ended when the session was noted."""

    number: int
    started: int


class Family(NamedTuple):
    """What tells the processes of a launch from all others.

    ``leader`` is the launched process, which leads a session, or the adopted one; ``sessions`` are those that its
    processes have made since. ``uid`` is the account: processes of other users do not belong to it. Those of root's
    program may have changed to any user, but then a ticket, which everybody could show, is no evidence.
    """

    leader: Identity
    ticket: str = ""
    sessions: tuple[Session, ...] = ()
    uid: int = -1

    def followed_by(self, process: Facts) -> "Family":
        """Now that this member of it runs the program. A launched family has made all its sessions; an adopted process
        may be in that of a login."""
        sessions = self.sessions
        is_own = bool(self.ticket) or process.session == process.pid
        if is_own and process.session not in (self.leader.pid, *(session.number for session in sessions)):
            leader = process_table.facts(process.session)
            sessions = (*sessions, Session(process.session, leader.started if leader is not None else 0))
        return self._replace(sessions=sessions)


class Ending(NamedTuple):
    """How the process that ran a program has ended. ``status`` is its exit status, the negative number of a signal, or
    None if it was nobody's child of ours. ``soon``: within ``start_timeout`` of its launch, as launchers do."""

    status: int | None = None
    soon: bool = True


class Snapshot:
    """All living processes that we may see, in one scan, and to which launches they belong."""

    def __init__(self) -> None:
        self.processes = [process for process in process_table.everybody() if not process.dead]
        self._by_pid = {process.pid: process for process in self.processes}
        self._children: dict[int, list[Facts]] = {}
        for process in self.processes:
            self._children.setdefault(process.parent, []).append(process)
        self._entries: dict[int, Mapping[str, str]] = {}
        self._tickets: dict[int, str | None] = {}
        self._owners: dict[int, int | None] = {}

    def entry(self, process: Facts, name: str) -> str | None:
        """A variable of ours in the environment of a process."""
        if process.pid not in self._entries:
            self._entries[process.pid] = process_table.environment(process.pid, _PREFIX)
        return self._entries[process.pid].get(name)

    def ticket(self, process: Facts) -> str | None:
        """The ticket of the launch that a process comes from: in its environment, or if that was overwritten by the
        number that it has inherited."""
        if process.pid not in self._tickets:
            number = None
            ticket = self.entry(process, TICKET)
            if ticket is None:
                number = process_table.inherited_number(process.pid)
            self._tickets[process.pid] = ticket if number is None else f"{number:015x}"
        return self._tickets[process.pid]

    def members(self, families: Mapping[str, Family]) -> dict[str, list[Facts]]:
        """The living members of each family.

        Neither we ourselves nor our callers belong to it, if a target called us; nor does the second process of a
        fence, which ends what is left in place of the fence.
        """
        roots = self._roots(families)
        callers = self._callers()
        return {
            key: [
                process
                for process in self._with_descendants(roots[key], family.ticket)
                if process.pid not in callers
                and self._is_of(process, family)
                and (process.pid == family.leader.pid or self.entry(process, FENCE) is None)
            ]
            for key, family in families.items()
        }

    def _is_of(self, process: Facts, family: Family) -> bool:
        """Whether the account allows a process in the family. The launched process itself may have become another
        user's (sudo)."""
        if family.uid == 0 or (process.pid, process.started) == (family.leader.pid, family.leader.started):
            return True
        return self.owner(process) == family.uid

    def owner(self, process: Facts) -> int | None:
        """The real uid of a process."""
        if process.pid not in self._owners:
            self._owners[process.pid] = process_table.owner(process.pid)
        return self._owners[process.pid]

    def _roots(self, families: Mapping[str, Family]) -> dict[str, list[Facts]]:
        """The leaders, and the members by session or by ticket."""
        sessions = {number: key for key, family in families.items() for number in self._sessions(family)}
        tickets = {family.ticket: key for key, family in families.items() if family.ticket}
        leaders = {(family.leader.pid, family.leader.started): key for key, family in families.items()}
        oldest = min((family.leader.started for family in families.values()), default=0)
        roots: dict[str, list[Facts]] = {key: [] for key in families}
        for process in self.processes:
            if process.started < oldest:
                continue
            key = sessions.get(process.session, leaders.get((process.pid, process.started)))
            if key is None and tickets:
                key = tickets.get(self.ticket(process) or "")
                if key is not None and self.owner(process) != families[key].uid:
                    key = None
            if key is not None and process.started >= families[key].leader.started:
                roots[key].append(process)
        return roots

    def _sessions(self, family: Family) -> Iterator[int]:
        """The numbers of a family's sessions, as far as they are still the same.

        A number is not given out again for as long as its session has members (setsid(2), credentials(7)): if another
        process than the session's leader has that pid, then the session had ended.
        """
        for session in (Session(family.leader.pid, family.leader.started), *family.sessions):
            leader = self._by_pid.get(session.number)
            if leader is None or leader.started == session.started:
                yield session.number

    def _with_descendants(self, roots: Sequence[Facts], ticket: str) -> Iterator[Facts]:
        """The roots, their children, and so on; without another target that one of them has launched."""
        seen = {process.pid for process in roots}
        pending = list(roots)
        while pending:
            process = pending.pop()
            yield process
            for child in self._children.get(process.pid, ()):
                is_another = child.session == child.pid and self.ticket(child) not in (None, ticket)
                if child.pid not in seen and not is_another:
                    seen.add(child.pid)
                    pending.append(child)

    def _callers(self) -> set[int]:
        """This process and its ancestors."""
        pids: set[int] = set()
        pid = os.getpid()
        while pid > 1 and pid not in pids:
            pids.add(pid)
            process = self._by_pid.get(pid)
            pid = process.parent if process is not None else 0
        return pids

    def launched(self, uid: int, *, ticket: str = "", program: str = "") -> Family | None:
        """The family of a launch that is not on record: processes of this user that have this ticket, or the mark of
        their program. None if none of them lives."""
        callers = self._callers()
        carriers = [
            process
            for process in self.processes
            if process.pid not in callers
            and (self.ticket(process) == ticket if ticket else self.entry(process, MARK) == program)
            and self.owner(process) == uid
        ]
        first = oldest_top(carriers)
        if first is None:
            return None
        # Its session is only ours if its leader is: a login's is not.
        leader = next((process for process in carriers if process.pid == first.session), first)
        identity = Identity(leader.pid, leader.started, process_table.boot_id())
        return Family(identity, self.ticket(first) or "", uid=uid)


def members(families: Mapping[str, Family], snapshot: Snapshot | None = None) -> dict[str, list[Facts]]:
    """The living members of each family; ``snapshot`` may be one that was just made.

    The processes are listed first and looked at then: one that forks and exits in between hides its child. So a family
    without members is looked for a second time.
    """
    found = (snapshot or Snapshot()).members(families)
    missing = {key: family for key, family in families.items() if not found[key]}
    return found | Snapshot().members(missing) if missing else found


def is_fence(pid: int) -> bool:
    """Whether this process is a fence or its second process: it stands between us and a target of a standby group."""
    return process_table.environment_entry(pid, FENCE) is not None


def successor(left: Collection[Facts], ending: Ending, executable: Callable[[int], str | None]) -> Facts | None:
    """The member that runs the program now that the process that ran it has ended; None if the program is dead.

    ``left`` are the living members, ``executable`` gives the file that a pid runs. Pure but for that.
    """
    parents = {process.parent for process in left}
    pids = {process.pid for process in left}
    tops = [process for process in left if process.parent not in pids]
    masters = [process for process in tops if process.pid in parents]
    only = tops[0] if len(tops) == 1 else None
    if ending.status == 0:
        if ending.soon:
            return min(masters or tops, key=lambda process: (process.started, process.pid), default=None)
        return masters[0] if len(masters) == 1 else only
    if only is None:
        return None
    if ending.status is not None:
        return only if _has_workers(only, left, executable) else None
    return only if masters else None


def _has_workers(process: Facts, left: Collection[Facts], executable: Callable[[int], str | None]) -> bool:
    """Whether it has children that run the same executable, as a master and its workers do."""
    own = executable(process.pid)
    return any(child.parent == process.pid and own is not None and executable(child.pid) == own for child in left)
