"""Records events of targets in the journal, with the alerts that they cause, in one transaction."""

import math
import os
from collections.abc import Sequence
from datetime import datetime

import msgspec

from restart_guard import clock
from restart_guard.config.options import Config
from restart_guard.host import process_table
from restart_guard.ids import new_run_id
from restart_guard.journal import events
from restart_guard.journal.incident import Incident, Notice, advance
from restart_guard.journal.journal import Journal
from restart_guard.programs.crashes import KEEPS_DYING
from restart_guard.programs.messages import CrashLoop, cannot_be_guarded, keeps_dying, well_again
from restart_guard.programs.observe import observe
from restart_guard.programs.results import ActionResult, held_up, is_well, longest_s
from restart_guard.programs.target import Target

KIND = "target"


def record(config: Config, happened: Sequence[ActionResult]) -> None:
    """Record results that have an event. Raises JournalError."""
    if not happened:
        return
    with Journal.open(config.state_dir) as journal, journal.transaction():
        for result in happened:
            _append(config, journal, result, clock.now())
        journal.prune(clock.now())


def _append(config: Config, journal: Journal, result: ActionResult, now: datetime) -> None:
    run_id = new_run_id()
    detail = config.redact(result.event or "")
    deliveries: list[events.Delivery] = []
    if result.is_stuck and journal.incident(KIND, result.name) is not None:
        return  # told before
    if result.crashes >= KEEPS_DYING or result.is_stuck:
        incident, notice = advance(
            journal.incident(KIND, result.name),
            ok=False,
            now=now,
            repeat_interval_s=math.inf,  # once, and once when it is well again
            can_notify=bool(config.alert_channels),
            fresh=Incident(run_id[:8], now, 0, 0, None),
        )
        journal.set_incident(KIND, result.name, incident)
        if notice is not Notice.NONE and incident is not None:
            text = _alert(config, result, detail, incident, now)
            deliveries = events.messages(config, text, mention=True)
    data = {"relaunch": result.crashes > 0, "crashes": result.crashes}
    events.append(
        config,
        journal,
        (KIND, result.name),
        ok=result.ok,
        detail=detail,
        run_id=run_id,
        at=now,
        data=data,
        deliveries=deliveries,
    )


def _alert(config: Config, result: ActionResult, detail: str, incident: Incident, now: datetime) -> str:
    here, at = os.uname().nodename, clock.local(now)
    if result.is_stuck:
        return cannot_be_guarded(result.name, detail, incident, language=config.language, host=here, at=at)
    options = config.targets.get(result.name)
    loop = CrashLoop(result.name, result.crashes, detail, str(options.log_file or "") if options else "")
    return keeps_dying(loop, incident, language=config.language, host=here, at=at)


_HELD_UP = "held_up"
"""The journal's fact about targets on which somebody else acts: since when, in seconds since boot."""


def tell_held_up(
    config: Config, journal: Journal, targets: Sequence[Target], busy: Sequence[ActionResult]
) -> list[ActionResult]:
    """Notice for how long somebody else has been acting on targets; longer than that may take is news. Only inside a
    transaction."""
    now = clock.boottime()
    known: dict[str, float] = msgspec.json.decode(journal.recall(_HELD_UP) or "{}")
    by_name = {target.name: target for target in targets}
    since = {name: at for name, at in known.items() if name not in by_name}
    since |= {result.name: min(known.get(result.name, now), now) for result in busy}
    if since != known:
        journal.remember(_HELD_UP, msgspec.json.encode(since).decode())
    waited = [(result, now - since[result.name]) for result in busy]
    stuck = [held_up(result, for_s) for result, for_s in waited if for_s > longest_s(by_name[result.name])]
    for result in stuck:
        _append(config, journal, result, clock.now())
    return stuck


def settle(config: Config, journal: Journal, targets: Sequence[Target]) -> list[ActionResult]:
    """End the incidents of targets that are well again, and report it; only inside a transaction."""
    ended = []
    incidents = journal.incidents(KIND)
    failing = [target for target in targets if target.name in incidents]
    observed = observe(failing, search_stopped=False) if failing else {}
    for target in failing:
        process = observed[target.name].process
        # A pid lock that cannot be repaired is a trouble of its own.
        is_guarded = process is not None and target.lock.read() == process.pid
        if process is not None and is_guarded and is_well(target, observed[target.name]):
            _end(config, journal, target.name, incidents[target.name], process_table.uptime_s(process))
            ended.append(ActionResult(target.name, ok=True, text=f"is well again, pid {process.pid}"))
    return ended


def _end(config: Config, journal: Journal, name: str, incident: Incident, uptime_s: float) -> None:
    deliveries: list[events.Delivery] = []
    if incident.notices:
        here, at = os.uname().nodename, clock.local(clock.now())
        text = well_again(name, incident, uptime_s=uptime_s, language=config.language, host=here, at=at)
        deliveries = events.messages(config, text, mention=False)
    data = {"relaunch": False, "crashes": 0}
    events.append(config, journal, (KIND, name), ok=True, detail="is well again", data=data, deliveries=deliveries)
    journal.set_incident(KIND, name, None)
