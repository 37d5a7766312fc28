"""What happened to targets, into the journal, with the alerts that it makes due: one transaction."""

import math
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from restart_guard import clock
from restart_guard.alerts.wording import Language
from restart_guard.config.options import Config
from restart_guard.host import process_table
from restart_guard.ids import new_run_id
from restart_guard.journal.incident import Incident, Notice, advance
from restart_guard.journal.journal import Event, Journal
from restart_guard.programs.actions import ActionResult, is_well
from restart_guard.programs.crashes import KEEPS_DYING
from restart_guard.programs.messages import CrashLoop, keeps_dying, well_again
from restart_guard.programs.observe import observe
from restart_guard.programs.target import Target

KIND = "target"


def record(config: Config, happened: Sequence[ActionResult]) -> None:
    """Keep what happened. Raises JournalError."""
    if not happened:
        return
    with Journal.open(config.state_dir) as journal, journal.transaction():
        for result in happened:
            _append(config, journal, result, clock.now())
        journal.prune(clock.now())


def _append(config: Config, journal: Journal, result: ActionResult, now: datetime) -> None:
    run_id = new_run_id()
    detail = config.redact(result.event or "")
    status = "success" if result.ok else "failure"
    more = {"host": os.uname().nodename, "relaunch": result.crashes > 0, "crashes": result.crashes}
    deliveries: list[tuple[str, Any]] = []
    if result.crashes >= KEEPS_DYING:
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
            settings = config.targets.get(result.name)
            log = str(settings.log_file or "") if settings else ""
            loop = CrashLoop(result.name, result.crashes, detail, log)
            here = os.uname().nodename
            text = keeps_dying(loop, incident, language=_language(config), host=here, at=clock.local(now))
            deliveries = _message(config, text, mention=True)
    journal.append(Event(run_id, now, KIND, result.name, status, detail, more), deliveries)


def settle(config: Config, journal: Journal, targets: Sequence[Target]) -> list[ActionResult]:
    """End the incidents of targets that are well again, and tell so; only inside a transaction."""
    ended = []
    incidents = journal.incidents(KIND)
    failing = [target for target in targets if target.name in incidents]
    observed = observe(failing, search_stopped=False) if failing else {}
    for target in failing:
        process = observed[target.name].process
        if process is not None and is_well(target, observed[target.name]):
            _end(config, journal, target.name, incidents[target.name], process_table.uptime_s(process))
            ended.append(ActionResult(target.name, ok=True, text=f"is well again, pid {process.pid}"))
    return ended


def _end(config: Config, journal: Journal, name: str, incident: Incident, uptime_s: float) -> None:
    now = clock.now()
    deliveries: list[tuple[str, Any]] = []
    if incident.notices:
        text = well_again(
            name,
            incident,
            uptime_s=uptime_s,
            language=_language(config),
            host=os.uname().nodename,
            at=clock.local(now),
        )
        deliveries = _message(config, text, mention=False)
    more = {"host": os.uname().nodename, "relaunch": False, "crashes": 0}
    journal.append(Event(new_run_id(), now, KIND, name, "success", "is well again", more), deliveries)
    journal.set_incident(KIND, name, None)


def _message(config: Config, text: str, *, mention: bool) -> list[tuple[str, Any]]:
    message = {"text": config.redact(text), "mention": mention}
    return [(channel, message) for channel in config.alert_channels]


def _language(config: Config) -> Language:
    return config.wecom.language if config.wecom else "zh"
