from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import click

from restart_guard import clock
from restart_guard.commands.parameters import duration, pass_session
from restart_guard.commands.programs.plain import day_and_time
from restart_guard.config.load import picked
from restart_guard.config.values import printable
from restart_guard.counts import counted
from restart_guard.durations import span
from restart_guard.errors import UsageError
from restart_guard.journal.journal import Journal, Wanted
from restart_guard.session import Session


@click.command("history")
@click.option("--check", help="Only this check.")
@click.option("--target", help="Only this target.")
@click.option("--failed", is_flag=True, help="Only failures.")
@click.option("--since", metavar="D", type=str, callback=duration, help="Only of the last 30m, 12h, 2d …")
@click.option("--incident", metavar="ID", help="Only of the incident with this number, which stands in its alert.")
@click.option("-n", "limit", type=click.IntRange(1, 10**9), default=20, show_default=True, help="How many.")
@click.option("-f", "--follow", is_flag=True, help="Oldest first, and go on with what happens, until Ctrl-C.")
@click.option("--uptime", is_flag=True, help="For how much of the time each target was up, and each check good.")
@click.option(
    "--days", type=click.FloatRange(0.01, 400), default=None, help="How far back, for --uptime. [default: 30]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@pass_session
def command(session: Session, /, **options: Any) -> None:
    """Show the events in the journal, newest first."""
    wanted = _Options(**options)
    for one, other in _EXCLUDE:
        if getattr(wanted, one) and getattr(wanted, other):
            raise UsageError(f"--{_spelled(one)} and --{_spelled(other)} exclude each other.")
    if wanted.days is not None and not wanted.uptime:
        raise UsageError("--days is for --uptime.")
    if wanted.uptime:
        _uptime(session, wanted)
    elif wanted.follow:
        _follow(session, wanted)
    else:
        _show(session, wanted)


class _Options(NamedTuple):
    check: str | None
    target: str | None
    failed: bool
    since: float | None
    incident: str | None
    limit: int
    follow: bool
    uptime: bool
    days: float | None
    as_json: bool

    @property
    def events(self) -> Wanted:
        return Wanted(
            kind="check" if self.check is not None else "target" if self.target is not None else None,
            subject=printable(self.check or self.target or "") or None,
            status="failure" if self.failed else None,
            since=clock.now() - timedelta(seconds=self.since) if self.since is not None else None,
            incident=self.incident,
        )


_EXCLUDE = (
    *(("check", "target"), ("follow", "as_json"), ("follow", "uptime"), ("follow", "incident")),
    *(("uptime", "failed"), ("uptime", "since"), ("uptime", "incident")),
)
_HEADS = ("at", "what", "status", "detail", "delivered")
_FOLLOW_S = 1.0
_FOLLOWED = 1000


def _spelled(option: str) -> str:
    return {"as_json": "json"}.get(option, option)


def _show(session: Session, wanted: _Options) -> None:
    journal = Journal.open_to_read(session.config.state_dir)
    events = journal.history(wanted.events, limit=wanted.limit) if journal else []
    names = ((session.config.checks, wanted.check, "check"), (session.config.targets, wanted.target, "target"))
    for known, name, what in names:
        if name is not None and not events and not wanted.as_json:
            picked(known, [name], what=what, path=session.config.path)
    if wanted.as_json:
        session.terminal.document(events)
    elif events:
        session.terminal.table(_HEADS, _rows(events), whole=(0, 1, 2))
    else:
        name = wanted.check or wanted.target
        about = f" about {name}" if name else ""
        such = " that are wanted here" if wanted.failed or wanted.since is not None or wanted.incident else " yet"
        session.terminal.note(f"The journal has no events{such}{about}.")


def _follow(session: Session, wanted: _Options) -> None:
    """A line each, since a table must know all its rows."""
    events, limit = wanted.events, wanted.limit
    shown: set[str] = set()  # in the last round: one may have come between its two questions
    while session.terminal.write_error is None:
        journal = Journal.open_to_read(session.config.state_dir)
        if journal is not None:
            with journal:
                last = journal.last_id()
                found = journal.history(events, limit=limit)
            for event in [one for one in reversed(found) if one["run_id"] not in shown]:
                session.terminal.report("  ".join(cell for cell in _rows([event])[0] if cell))
            shown = {event["run_id"] for event in found}
            events, limit = events._replace(after=last), _FOLLOWED
        clock.sleep(_FOLLOW_S)


def _uptime(session: Session, wanted: _Options) -> None:
    # Only here.
    from restart_guard.reports.uptime import percent, rows, sparkline

    journal = Journal.open_to_read(session.config.state_dir)
    found = rows(session.config, journal, 30.0 if wanted.days is None else wanted.days) if journal is not None else []
    for kind, name, known in (
        ("check", wanted.check, session.config.checks),
        ("target", wanted.target, session.config.targets),
    ):
        if name is not None:
            picked(known, [name], what=kind, path=session.config.path)
            found = [row for row in found if (row.kind, row.name) == (kind, name)]
    if wanted.as_json:
        session.terminal.document([row.shown() for row in found])
        return
    cells = []
    for row in found:
        up = row.uptime
        outages = "" if not up.outages else f"{counted(up.outages, 'outage')}, {span(up.down_s)}"
        longest = "" if up.outages < 2 else f"longest {span(up.longest_s)}"
        unseen = "" if up.unknown_s < 1 else f"nobody looked for {span(up.unknown_s)}"
        many = "; ".join(part for part in (outages, longest, unseen) if part)
        cells.append((f"{row.kind} {row.name}", percent(up.percent), sparkline(up.bars), many))
    session.terminal.table(("what", "up", "over the time", "outages"), cells, whole=(0, 1, 2))
    if not cells:
        session.terminal.note("Nobody has looked yet: see restart-guard install-timer.")


def _rows(events: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """An error of a delivery is shown where it comes first."""
    shown: set[str] = set()
    return [_row(event, shown) for event in events]


def _row(event: dict[str, Any], shown: set[str]) -> tuple[str, ...]:
    subject = event.get(event["kind"], event.get("subject", ""))
    deliveries = []
    for delivery in event["deliveries"]:
        error = delivery["error"] if delivery["error"] not in shown else None
        shown.add(delivery["error"])
        deliveries.append(f"{delivery['destination']} {delivery['state']}" + (f": {error}" if error else ""))
    status = "died" if event.get("died") else event["status"]
    at = day_and_time(datetime.fromisoformat(event["at"]))
    return (at, f"{event['kind']} {subject}", status, event["detail"], ", ".join(deliveries))
