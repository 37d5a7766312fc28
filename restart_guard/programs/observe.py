"""The state of guarded programs: from their records, which costs almost nothing, else by one scan for all.

docs/lineage.md has the rule.
"""

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from restart_guard import clock
from restart_guard.counts import counted
from restart_guard.host import process_table, strangers
from restart_guard.host.family import MARK, TICKET, Ending, Family, Snapshot, members, successor
from restart_guard.host.files import user_name
from restart_guard.host.identity import Facts, Identity
from restart_guard.host.strangers import Likeness, Wanted
from restart_guard.programs import crashes, processes
from restart_guard.programs.lifecycle import State, state_of
from restart_guard.programs.pidlock import Record
from restart_guard.programs.target import Observation, Target

_NONE: Mapping[str, Ending] = MappingProxyType({})


def observe(
    targets: Iterable[Target],
    *,
    search_stopped: bool,
    search_strangers: bool = False,
    endings: Mapping[str, Ending] = _NONE,
) -> dict[str, Observation]:
    """Look at every target: by its recorded identity, which costs nothing, else by one scan for all the others.

    Without ``search_stopped`` a target that has no pid lock is not looked for. With ``search_strangers`` processes like
    it that no launch of ours started are looked for too. ``endings`` tells how processes that have just ended did so.
    """
    observed: dict[str, Observation] = {}
    unknown: dict[str, tuple[Target, Record]] = {}
    for target in targets:
        record = target.lock.recorded(process_table.boot_id())
        wanted = record.starting or target.lock.is_there()
        known = _by_record(target, record, wanted=wanted)
        if known is not None:
            observed[target.name] = known
        elif not wanted and target.lock.is_hidden():
            why = f"its folder {target.lock.path.parent} may not be searched"
            observed[target.name] = Observation(State.UNKNOWN, None, record, why)
        elif wanted or search_stopped:
            unknown[target.name] = (target, record)
        else:
            observed[target.name] = Observation(State.STOPPED, None, record, family=record.family)
    if unknown:
        observed |= _by_family(unknown, endings, search_strangers=search_strangers)
    return observed


def dead(target: Target, record: Record) -> Observation:
    """The observation of a target that is not alive: stopped, dead, or waiting for its next try."""
    wait = crashes.next_try_s(record.crashes, target.settings.restart_backoff, now=clock.boottime())
    state = state_of(locked=record.starting or target.lock.is_there(), alive=False, next_try_s=wait)
    if state is not State.BACKOFF:
        return Observation(state, None, record, family=record.family)
    times = record.crashes.in_a_row
    why = f"{counted(times, 'relaunch', 'relaunches')} in a row" if times else "waiting before its relaunch"
    return Observation(state, None, record, why, wait, family=record.family)


def _by_record(target: Target, record: Record, *, wanted: bool) -> Observation | None:
    """The observation from the record, if it names a process that lives or may not be looked at."""
    try:
        if record.process is not None and processes.is_alive(record.process):
            family = record.family or _family_of_launch(target, record.process)
            return Observation(state_of(locked=wanted, alive=True), record.process, record, family=family)
    except PermissionError:
        return Observation(State.UNKNOWN, None, record, "its process may not be examined")
    return None


def _family_of_launch(target: Target, process: Identity) -> Family:
    """Of a process whose launch was recorded without its family, or not at all: its environment has the ticket."""
    return Family(process, process_table.environment_entry(process.pid, TICKET) or "", uid=target.uid)


def _by_family(
    unknown: Mapping[str, tuple[Target, Record]], endings: Mapping[str, Ending], *, search_strangers: bool
) -> dict[str, Observation]:
    """Of targets whose recorded process does not live: what goes on in their families."""
    snapshot = Snapshot()
    families: dict[str, Family] = {}
    for name, (target, record) in unknown.items():
        family = _family(target, record, snapshot)
        if family is not None:
            families[name] = family
    left = members(families, snapshot)
    observed = {
        name: _of_family(target, record, families.get(name), left.get(name, ()), endings.get(name))
        for name, (target, record) in unknown.items()
    }
    if search_strangers:
        ours = {process.pid for members in left.values() for process in members}
        others = [process for process in snapshot.processes if process.pid not in ours]
        lost = [target for name, (target, _) in unknown.items() if observed[name].process is None]
        observed |= _with_strangers(lost, observed, [one for one in others if snapshot.entry(one, TICKET) is None])
    return observed


def _family(target: Target, record: Record, snapshot: Snapshot) -> Family | None:
    """The family of a target's last launch: one that was interrupted before it was recorded, or the recorded one, or
    where the record was lost one that carries the program's mark."""
    found = snapshot.launched(target.uid, ticket=record.ticket) if record.ticket else None
    if found is not None or record.family is not None:
        return found or record.family
    if record.process is not None:
        return Family(record.process, uid=target.uid)
    return snapshot.launched(target.uid, program=str(target.program.path))


def _of_family(
    target: Target, record: Record, family: Family | None, left: Sequence[Facts], ending: Ending | None
) -> Observation:
    """The observation of a target by its family, of which these members live."""
    try:
        process = _named_by_lock(target, record, left)
    except PermissionError:
        why = f"pid {target.lock.read()} may not be examined"
        return Observation(State.UNKNOWN, None, record, why, family=family)
    if process is not None and process not in left:
        owner = process_table.owner(process.pid)
        if owner not in (target.uid, None):
            who = user_name(owner)
            why = f"it runs as user {who}, who wrote the pid lock"
            return Observation(State.RUNNING, processes.identity_of(process), record, why, runs_as=who)
    if process is None and family is not None:
        process = _goes_on(target, family, left, ending)
    if process is None:
        return dead(target, record)._replace(family=family)
    identity = processes.identity_of(process)
    if family is not None and process in left:
        family = family if identity == family.leader else family.followed_by(process)
    else:
        family = _family_of_launch(target, identity)
    state = state_of(locked=record.starting or target.lock.is_there(), alive=True)
    return Observation(state, identity, record, family=family)


def _named_by_lock(target: Target, record: Record, left: Sequence[Facts]) -> Facts | None:
    """The living process that the pid lock names, if it is the program and the record does not have it yet. It must be
    of the account, or of whoever wrote the pid lock: in a group's folder that may be another member. Raises
    PermissionError."""
    pid = target.lock.read()
    if pid is None or (record.process is not None and record.process.pid == pid):
        return None
    process = process_table.facts(pid)
    if process is None or process.dead:
        return None
    owner = process_table.owner(pid)
    if owner not in (target.uid, None) and (os.geteuid() == 0 or owner != target.lock.owner()):
        return None
    is_ours = process in left or process_table.environment_entry(pid, MARK) == str(target.program.path)
    # Its title may hide the mark. The pid lock is ours alone, so for the pid that it names likeness is enough.
    return process if is_ours or _looks_alike(pid, target) else None


def _looks_alike(pid: int, target: Target) -> bool:
    try:
        answer = process_table.look(pid).is_program(target.program)
    except (FileNotFoundError, ProcessLookupError):
        return False
    if answer is None:
        raise PermissionError(errno.EACCES, "it may not be examined")
    return answer


def _goes_on(target: Target, family: Family, left: Sequence[Facts], ending: Ending | None) -> Facts | None:
    """The member of a family that runs the program. Behind a fence only that does: it stays for as long as anything of
    its family lives."""
    leader = next((process for process in left if processes.identity_of(process) == family.leader), None)
    if leader is not None or target.permit is not None:
        return leader
    return successor(left, ending or Ending(), process_table.executable)


def _with_strangers(
    targets: Sequence[Target], observed: Mapping[str, Observation], others: Sequence[Facts]
) -> dict[str, Observation]:
    """The observations of targets that are not alive, with the processes that are like them."""
    wanted = {}
    for target in targets:
        wanted[target.name] = Wanted(target.program, target.uid)
    found = {}
    for name, stranger in strangers.search(wanted, others).items():
        seen = observed[name]._replace(stranger=stranger)
        if stranger.likeness is Likeness.SAME and seen.state is State.STOPPED:
            seen = seen._replace(
                state=State.UNGUARDED,
                process=stranger.process,
                why="restart-guard did not start it; start adopts it",
            )
        found[name] = seen
    return found
