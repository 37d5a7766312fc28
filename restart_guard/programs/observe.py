"""The state of guarded programs: from their records, which costs almost nothing, else by one search for all."""

import os
from collections.abc import Iterable

import msgspec

from restart_guard import clock
from restart_guard.counts import counted
from restart_guard.host import process_table
from restart_guard.programs import crashes, processes
from restart_guard.programs.lifecycle import State, state_of
from restart_guard.programs.pidlock import Record
from restart_guard.programs.target import Observation, Target


def observe(targets: Iterable[Target], *, search_stopped: bool) -> dict[str, Observation]:
    """Look at every target: by its recorded identity, which costs nothing, else by one search for all the others.

    Without ``search_stopped`` a target that has no pid lock is not searched for.
    """
    observed: dict[str, Observation] = {}
    unknown: dict[str, tuple[Target, Record]] = {}
    for target in targets:
        record = remembered(target)
        wanted = record.starting or target.lock.is_there()
        known = _by_record(target, record, wanted=wanted)
        if known is not None:
            observed[target.name] = known
        elif wanted or search_stopped:
            unknown[target.name] = (target, record)
        else:
            observed[target.name] = Observation(State.STOPPED, None, record)
    if not unknown:
        return observed
    programs = {name: target.program for name, (target, _) in unknown.items()}
    ended = {name: record.process for name, (_, record) in unknown.items()}
    tickets = {name: record.ticket for name, (_, record) in unknown.items() if record.ticket}
    processes_found = processes.search(programs, ended, tickets)
    for name, (target, record) in unknown.items():
        process = processes_found.get(name)
        if name in processes_found and process is None:
            why = "another user's process looks like it, and may not be examined"
            observed[name] = Observation(State.UNKNOWN, None, record, why)
        elif process is not None:
            state = state_of(locked=record.starting or target.lock.is_there(), alive=True)
            observed[name] = Observation(state, process, record, "found by its command")
        else:
            observed[name] = dead(target, record)
    return observed


def remembered(target: Target) -> Record:
    """The record. Root does not act on a record that another user could write, except for a process of that user: the
    record could name any process."""
    record = target.lock.recorded(process_table.boot_id())
    if record.process is not None and os.geteuid() == 0:
        writer = target.lock.recorded_by()
        if writer not in (0, None, process_table.owner(record.process.pid)):
            return msgspec.structs.replace(record, process=None)
    return record


def dead(target: Target, record: Record) -> Observation:
    """The observation of a target that is not alive: stopped, dead, or waiting for its next try."""
    wait = crashes.next_try_s(record.crashes, target.settings.restart_backoff, now=clock.boottime())
    state = state_of(locked=record.starting or target.lock.is_there(), alive=False, next_try_s=wait)
    if state is not State.BACKOFF:
        return Observation(state, None, record)
    times = record.crashes.in_a_row
    why = f"{counted(times, 'relaunch', 'relaunches')} in a row" if times else "waiting before its relaunch"
    return Observation(state, None, record, why, wait)


def _by_record(target: Target, record: Record, *, wanted: bool) -> Observation | None:
    """The observation from the record and the pid lock, if they name a living process that is the program."""
    try:
        if record.process is not None and processes.is_alive(record.process):
            return Observation(state_of(locked=wanted, alive=True), record.process, record)
        pid = target.lock.read()
        if pid is None or (record.process is not None and record.process.pid == pid):
            return None
        is_program = processes.was_launched_as(pid, target.program.path) or processes.matches(pid, target.program)
        if is_program is None:
            return Observation(State.UNKNOWN, None, record, f"pid {pid} may not be examined")
        process = process_table.identity(pid) if is_program else None
        if process is not None:
            return Observation(state_of(locked=wanted, alive=True), process, record)
    except PermissionError:
        return Observation(State.UNKNOWN, None, record, "its process may not be examined")
    return None
