"""Stops a program with all its processes: gently, with time to drain, or at once.

Stopped means that nothing is left.
"""

import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple

from restart_guard import clock
from restart_guard.durations import span
from restart_guard.errors import GuardError
from restart_guard.host import hook, process_table
from restart_guard.host.family import Family, is_fence
from restart_guard.host.identity import Facts, Identity
from restart_guard.programs import processes
from restart_guard.programs.target import StopOptions, Target, hook_of

_KILL_S = 10.0
_TOLD_EVERY_S = 1.0


class Ended(NamedTuple):
    """The result of a stop: ``left`` are the processes that still live."""

    text: str
    left: tuple[Facts, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.left


def drain(target: Target, process: Identity, family: Family, stop: StopOptions) -> Ended:
    """Run pre_stop, send stop_signal, wait until nothing of the family is left, KILL what is left if asked.

    The program gets the signal first, and the others when it has ended, so that a master can let its workers finish.
    """
    settings = target.settings
    before = _pre_stop(target, process)
    timeout = settings.stop_timeout if stop.timeout_s is None else stop.timeout_s
    kill_after = min(settings.kill_after or timeout, timeout) if stop.force else settings.kill_after
    began = clock.monotonic()
    known = processes.family_of(family)
    count = sum(not is_fence(member.pid) for member in known)
    patience = timeout if kill_after is None else min(timeout, kill_after)
    left = _drained(target, process, family, known, _Wait(target.name, began + patience, stop.tell))
    took = span(clock.monotonic() - began)
    if not left:
        return Ended(f"{before}stopped in {took}{_of(count)}")
    if kill_after is not None and kill_after <= timeout:
        killed = f"killed after {took}: {_names(left)}"
        left = _kill_all(family, left)
        return Ended(f"{before}{killed}" if not left else f"{before}{_names(left)} cannot be killed", tuple(left))
    return Ended(f"{before}still runs after {took}: {_names(left)}", tuple(left))


class _Wait(NamedTuple):
    """A wait until a moment, about which somebody may want to be told."""

    name: str
    deadline: float
    tell: Callable[[str, float, int], None] | None = None


def _drained(target: Target, process: Identity, family: Family, known: Sequence[Facts], until: _Wait) -> list[Facts]:
    number = signal.Signals[f"SIG{target.settings.stop_signal.removeprefix('SIG')}"]
    program = processes.behind_fence(process)
    process_table.send(
        process, signal.SIGCONT, (family.uid, 0) if family.uid > 0 else None
    )  # also a fence, which would not see the end of its program else
    processes.send(program, number, family.uid)
    if target.settings.stop_mode == "group":
        processes.signal_all(_others(known, program), number, family)
    else:
        _wait(until, lambda seconds: process_table.wait(program, seconds), lambda: len(known))
        if process_table.wait(program, 0):
            known = processes.left_of(family, known)
            processes.signal_all(_others(known, program), number, family)
    left: list[Facts] = []

    def is_done(seconds: float) -> bool:
        left[:] = processes.wait_for_all(family, known, seconds)
        return not left

    _wait(until, is_done, lambda: len(left))
    return left


def _others(known: Sequence[Facts], program: Identity) -> list[Facts]:
    """All but the program, and the fence: that would hand a signal on to the program."""
    return [member for member in known if member.pid != program.pid and not is_fence(member.pid)]


def _wait(until: _Wait, is_done: Callable[[float], bool], count: Callable[[], int]) -> None:
    """Wait for a condition, which is given the seconds to wait for; tell about once a second what is left."""
    while True:
        remaining = max(0.0, until.deadline - clock.monotonic())
        step = remaining if until.tell is None else min(remaining, _TOLD_EVERY_S)
        if is_done(step) or clock.monotonic() >= until.deadline:
            return
        if until.tell is not None:
            until.tell(until.name, until.deadline - clock.monotonic(), count())


def _pre_stop(target: Target, process: Identity) -> str:
    """Run pre_stop. If it fails, the program is stopped all the same, and the failure is reported."""
    settings = target.settings
    if settings.pre_stop is None:
        return ""
    began = clock.monotonic()
    try:
        ran = hook.run(hook_of(target, settings.pre_stop, process, settings.pre_stop_timeout))
    except GuardError as error:
        return f"pre_stop: {error}; "
    took = span(clock.monotonic() - began)
    return f"pre_stop took {took}; " if ran.ok else f"pre_stop failed ({ran}); "


def kill(process: Identity, family: Family) -> Ended:
    """KILL to a program and its family. Raises PermissionError."""
    processes.send(process, signal.SIGKILL, family.uid)
    left = _kill_all(family, processes.family_of(family))
    if left:
        return Ended(f"{_names(left)} cannot be killed: it hangs in the kernel", tuple(left))
    return Ended(f"killed pid {process.pid}")


def _kill_all(family: Family, known: Sequence[Facts]) -> list[Facts]:
    left = list(known)
    for _ in range(3):  # a process may fork while it is being killed
        processes.signal_all(left, signal.SIGKILL, family)
        left = processes.wait_for_all(family, left, _KILL_S / 3)
        if not left:
            break
    return left


def clear(target: Target, family: Family) -> str:
    """End what a dead program left behind, which would hold its port. Returns a clause about it."""
    orphans = processes.family_of(family)
    if not orphans:
        return ""
    _end_orphans(target, family, orphans, StopOptions(force=True))
    return f"ended orphans: {_names(orphans)}; "


def sweep(target: Target, family: Family, stop: StopOptions) -> Ended | None:
    """End all orphans of a dead program; None if there are none."""
    orphans = processes.family_of(family)
    if not orphans:
        return None
    left = _end_orphans(target, family, orphans, stop)
    if left:
        return Ended(f"was dead, but orphans still run: {_names(left)}", tuple(left))
    return Ended(f"was dead; ended its orphans: {_names(orphans)}")


def _end_orphans(target: Target, family: Family, orphans: Sequence[Facts], stop: StopOptions) -> list[Facts]:
    settings = target.settings
    processes.signal_all(orphans, signal.Signals[f"SIG{settings.stop_signal.removeprefix('SIG')}"], family)
    timeout = settings.stop_timeout if stop.timeout_s is None else stop.timeout_s
    left = processes.wait_for_all(family, orphans, timeout)
    return _kill_all(family, left) if left and stop.force else left


def _of(count: int) -> str:
    return f", {count} processes" if count > 1 else ""


def _names(members: Sequence[Facts]) -> str:
    more = f" and {len(members) - 5} more" if len(members) > 5 else ""
    return ", ".join(f"{member.name} (pid {member.pid})" for member in members[:5]) + more
