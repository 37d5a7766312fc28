"""Stops a program with all its processes: gently, with time to drain, or at once.

Stopped means that nothing is left.
"""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from restart_guard import clock
from restart_guard.durations import span
from restart_guard.errors import GuardError
from restart_guard.host import hook
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


def drain(target: Target, process: Identity, stop: StopOptions) -> Ended:
    """Run pre_stop, send stop_signal to the program and its kin, wait for their end, KILL what is left if asked."""
    settings, path = target.settings, target.program.path
    number = signal.Signals[f"SIG{settings.stop_signal.removeprefix('SIG')}"]
    before = _pre_stop(target, process)
    timeout = settings.stop_timeout if stop.timeout_s is None else stop.timeout_s
    kill_after = min(settings.kill_after or timeout, timeout) if stop.force else settings.kill_after
    began = clock.monotonic()
    others = processes.kin(process, path)
    count = len(others) + (not processes.is_fence(process.pid))
    processes.end(process, others, number)
    patience = timeout if kill_after is None else min(timeout, kill_after)
    left = _wait(target, process, others, stop, patience)
    took = span(clock.monotonic() - began)
    if not left:
        return Ended(f"{before}stopped in {took}{_of(count)}")
    if kill_after is not None and kill_after <= timeout:
        killed = f"killed after {took}: {_names(left)}"
        left = _kill_all(path, process, left)
        return Ended(f"{before}{killed}" if not left else f"{before}{_names(left)} cannot be killed", tuple(left))
    return Ended(f"{before}still runs after {took}: {_names(left)}", tuple(left))


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


def _wait(target: Target, process: Identity, others: Sequence[Facts], stop: StopOptions, seconds: float) -> list[Facts]:
    deadline = clock.monotonic() + seconds
    left: list[Facts] = []
    while True:
        remaining = max(0.0, deadline - clock.monotonic())
        step = remaining if stop.tell is None else min(remaining, _TOLD_EVERY_S)
        left = processes.wait_for_all(process, others, target.program.path, step)
        remaining = deadline - clock.monotonic()
        if not left or remaining <= 0:
            return left
        if stop.tell is not None:
            stop.tell(target.name, remaining, len(left))


def kill(target: Target, process: Identity) -> Ended:
    """KILL to a program and its kin."""
    left = _kill_all(target.program.path, process, processes.kin(process, target.program.path))
    if left:
        return Ended(f"{_names(left)} cannot be killed: it hangs in the kernel", tuple(left))
    return Ended(f"killed pid {process.pid}")


def _kill_all(program: Path | None, process: Identity, others: Sequence[Facts]) -> list[Facts]:
    left = list(others)
    for _ in range(3):  # a process may fork while it is being killed
        processes.end(process, left, signal.SIGKILL)
        left = processes.wait_for_all(process, left, program, _KILL_S / 3)
        if not left:
            break
    return left


def clear(target: Target, ended: Identity) -> str:
    """End the orphans in a dead program's session, which would hold its port. Returns a clause about it."""
    orphans = processes.kin(ended) if processes.may_have_kin(ended) else []
    if not orphans:
        return ""
    _end_orphans(target, ended, None, orphans, StopOptions(force=True))
    return f"ended orphans: {_names(orphans)}; "


def sweep(target: Target, ended: Identity, stop: StopOptions) -> Ended | None:
    """End all orphans of a dead program, in any session; None if there are none."""
    path = target.program.path
    orphans = processes.kin(ended, path)
    if not orphans:
        return None
    left = _end_orphans(target, ended, path, orphans, stop)
    if left:
        return Ended(f"was dead, but orphans still run: {_names(left)}", tuple(left))
    return Ended(f"was dead; ended its orphans: {_names(orphans)}")


def _end_orphans(
    target: Target, ended: Identity, program: Path | None, orphans: Sequence[Facts], stop: StopOptions
) -> list[Facts]:
    settings = target.settings
    processes.end(ended, orphans, signal.Signals[f"SIG{settings.stop_signal.removeprefix('SIG')}"])
    timeout = settings.stop_timeout if stop.timeout_s is None else stop.timeout_s
    left = processes.wait_for_all(ended, orphans, program, timeout)
    return _kill_all(program, ended, left) if left and stop.force else left


def _of(count: int) -> str:
    return f", {count} processes" if count > 1 else ""


def _names(members: Sequence[Facts]) -> str:
    more = f" and {len(members) - 5} more" if len(members) > 5 else ""
    return ", ".join(f"{member.name} (pid {member.pid})" for member in members[:5]) + more
