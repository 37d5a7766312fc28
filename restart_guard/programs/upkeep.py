"""What a tick and a watch look at beside life and death: the size of a log, the memory of a program."""

from collections.abc import Iterable

import msgspec

from restart_guard import clock
from restart_guard.errors import BusyError, GuardError
from restart_guard.host import process_table
from restart_guard.host.rotation import rotate
from restart_guard.programs import processes
from restart_guard.programs.lifecycle import Command
from restart_guard.programs.results import ActionOptions, ActionResult
from restart_guard.programs.target import Observation, StopOptions, Target
from restart_guard.sizes import size

_LOOKS = 3
_APART_S = 50.0


LOG_TROUBLE = "log.trouble"
"""The journal's fact about logs that could not be rotated, by target."""


def rotate_logs(targets: Iterable[Target]) -> dict[str, str]:
    """Rotate the logs that are too large. Returns why some could not be, by target."""
    found = {}
    for target in targets:
        path, most = target.settings.log_file, target.settings.log_max_size
        if path is None or most is None or target.files(path).size(path) <= most:
            continue
        why = rotate(target.files(path), path, most, target.settings.log_keep)
        if why:
            found[target.name] = why
    return found


def weigh(target: Target, observed: Observation) -> ActionResult | None:
    """Restart a program whose family uses more memory than it may, three looks in a row. None if that is no news."""
    most, record = target.settings.max_memory, observed.record
    if most is None or observed.process is None or observed.family is None:
        return None
    now_s = clock.boottime()
    if record.heavy_looks and now_s - record.heavy_at < _APART_S:
        return None  # a watch or a tick has just looked
    used = sum(process_table.resident(process.pid) for process in processes.family_of(observed.family))
    looks = 0
    if used > most or record.heavy_looks:
        try:
            with target.lock.held(wait_s=0):
                now = target.lock.recorded(process_table.boot_id())
                if now.process != observed.process or now.heavy_at != record.heavy_at:
                    return None  # it was restarted meanwhile, or somebody else has just looked
                looks = now.heavy_looks + 1 if used > most else 0
                target.lock.record(msgspec.structs.replace(now, heavy_looks=looks % _LOOKS, heavy_at=now_s))
        except BusyError:
            return None
        except GuardError as error:
            return ActionResult(target.name, ok=False, text=str(error))
    if looks < _LOOKS:
        return None
    # A tick that finds all well does not act.
    from restart_guard.programs.actions import act

    why = f"uses {size(used)} of memory, max_memory is {size(most)}"
    return act(target, Command.HEAL, ActionOptions(StopOptions(force=True), why=why))
