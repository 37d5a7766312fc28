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
        for done in happened:
            _append(config, journal, done, clock.now())
        journal.prune(clock.now())


def _append(config: Config, journal: Journal, done: ActionResult, now: datetime) -> None:
    run_id = new_run_id()
    detail = config.redact(done.event or "")
    status = "success" if done.ok else "failure"
    more = {"host": os.uname().nodename, "relaunch": done.crashes > 0, "crashes": done.crashes}
    deliveries: list[tuple[str, Any]] = []
    if done.crashes >= KEEPS_DYING:
        incident, notice = advance(
            journal.incident(KIND, done.name),
            ok=False,
            now=now,
            repeat_interval_s=math.inf,  # once, and once when it is well again
            can_notify=bool(config.alert_channels),
            fresh=Incident(run_id[:8], now, 0, 0, None),
        )
        journal.set_incident(KIND, done.name, incident)
        if notice is not Notice.NONE and incident is not None:
            settings = config.targets.get(done.name)
            log = str(settings.log_file or "") if settings else ""
            loop = CrashLoop(done.name, done.crashes, detail, log)
            here = os.uname().nodename
            text = keeps_dying(loop, incident, language=_language(config), host=here, at=clock.local(now))
            deliveries = _message(config, text, mention=True)
    journal.append(Event(run_id, now, KIND, done.name, status, detail, more), deliveries)


def settle(config: Config, journal: Journal, targets: Sequence[Target]) -> list[ActionResult]:
    """End the incidents of targets that are well again, and tell so; only inside a transaction."""
    ended = []
    incidents = journal.incidents(KIND)
    failing = [one for one in targets if one.name in incidents]
    seen = observe(failing, search_stopped=False) if failing else {}
    for one in failing:
        who = seen[one.name].who
        if who is not None and is_well(one, seen[one.name]):
            _end(config, journal, one.name, incidents[one.name], process_table.uptime_s(who))
            ended.append(ActionResult(one.name, ok=True, text=f"is well again, pid {who.pid}"))
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
