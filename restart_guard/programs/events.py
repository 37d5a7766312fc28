"""Records events of targets in the journal, with the alerts that they cause, in one transaction."""

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from restart_guard import clock
from restart_guard.alerts.wording import Language
from restart_guard.config.options import Config
from restart_guard.host import process_table
from restart_guard.host.hook import signal_name
from restart_guard.ids import new_run_id
from restart_guard.journal import events, spans
from restart_guard.journal.incident import Incident, Notice, advance
from restart_guard.journal.journal import Journal, Totals, Wanted
from restart_guard.programs.crashes import KEEPS_DYING, Death, next_try_s
from restart_guard.programs.lifecycle import State
from restart_guard.programs.messages import CrashLoop, cannot_be_guarded, how_it_died, keeps_dying, well_again
from restart_guard.programs.observe import observe
from restart_guard.programs.results import FAILED, KILLED, ActionResult, held_up, is_well, longest_s
from restart_guard.programs.target import Observation, Target, target_of

KIND = "target"
_LOG_BYTES = 4000
_LOG_LINES = 10


def record(config: Config, happened: Sequence[ActionResult], changed: Sequence[Target] = ()) -> None:
    """Record results that have an event, and how the targets are that may be changed. Raises JournalError."""
    if not happened:
        return
    seen = states(changed, observe(changed, search_stopped=False)) if changed else {}
    with Journal.open(config.state_dir) as journal, journal.transaction():
        for result in happened:
            at = datetime.fromtimestamp(result.at, UTC) if result.at else clock.now()
            _append(config, journal, result, at)
            if result.death is not None and result.death.at and result.ok:
                spans.down(journal, KIND, result.name, result.death.at, at.timestamp())
        if seen:
            spans.look(journal, KIND, seen, clock.now().timestamp(), is_exact=True)
        journal.prune(clock.now())


def states(targets: Sequence[Target], observed: Mapping[str, Observation]) -> dict[str, str]:
    """The state of each target for the record of times."""
    found: dict[str, str] = {}
    for target in targets:
        seen = observed[target.name]
        waits = seen.process is None and seen.state is not State.UNKNOWN and not target.may_run
        found[target.name] = "standby" if waits else seen.state.value
    return found


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
            opened = incident

            def words(language: Language) -> str:
                return _alert(config, result, detail, opened, language=language, now=now)

            deliveries = events.messages(config, (KIND, result.name), words, mention=True, incident=incident.id)
    if result.death is not None:
        _append_death(config, journal, result.name, result.death, now)
    data = {"relaunch": result.crashes > 0, "crashes": result.crashes}
    if result.crashes > 0:
        journal.count(KIND, result.name, Totals(relaunches=1))
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


def _append_death(config: Config, journal: Journal, name: str, death: Death, now: datetime) -> None:
    """A death is an event of its own. A kill by hand, and a launch that failed at once, have been one already."""
    last = journal.history(Wanted(kind=KIND, subject=name), limit=1)
    if not death.is_seen and last and str(last[0]["detail"]).startswith((FAILED, KILLED)):
        return
    data = {
        "relaunch": False,
        "crashes": 0,
        "died": True,
        "exit_status": death.status if death.status is not None and death.status >= 0 else None,
        "signal": signal_name(-death.status) if death.status is not None and death.status < 0 else None,
        "lived_s": round(death.lived_s, 1),
        "is_seen": death.is_seen,
    }
    detail = f"died: {how_it_died(death, 'en')}"
    at = datetime.fromtimestamp(death.at, UTC) if death.at else now
    events.append(config, journal, (KIND, name), ok=False, detail=detail, at=at, data=data)


def _alert(
    config: Config, result: ActionResult, detail: str, incident: Incident, *, language: Language, now: datetime
) -> str:
    here, at = os.uname().nodename, clock.local(now)
    by_hand = f"restart-guard -c {shlex.quote(str(config.path))} history --incident {incident.id}"
    if result.is_stuck:
        return cannot_be_guarded(result.name, detail, incident, language=language, host=here, at=at, command=by_hand)
    loop = CrashLoop(result.name, result.crashes, detail, result.death, command=by_hand)
    if result.name in config.targets:
        loop = _with_log(loop, target_of(config, result.name))
    return keeps_dying(loop, incident, language=language, host=here, at=at)


def _with_log(loop: CrashLoop, target: Target) -> CrashLoop:
    """With what a person would look for: the end of the program's log, and when it is tried next."""
    path, last = target.settings.log_file, ""
    if path is not None:
        with suppress(OSError):
            last = target.files(path).read_end(path, _LOG_BYTES, start=0).decode(errors="replace")
    record = target.lock.recorded(process_table.boot_id())
    wait_s = next_try_s(record.crashes, target.settings.restart_backoff, now=clock.boottime())
    lines = tuple(line for line in last.splitlines() if line.strip())[-_LOG_LINES:]
    return loop._replace(log=str(path or ""), log_lines=lines, next_try_s=wait_s)


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

        def words(language: Language) -> str:
            return well_again(name, incident, uptime_s=uptime_s, language=language, host=here, at=at)

        deliveries = events.messages(config, (KIND, name), words, mention=False, incident=incident.id, recovered=True)
    data = {"relaunch": False, "crashes": 0}
    events.append(config, journal, (KIND, name), ok=True, detail="is well again", data=data, deliveries=deliveries)
    journal.set_incident(KIND, name, None)
