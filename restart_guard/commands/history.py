from datetime import timedelta
from typing import Any

import click

from restart_guard import clock
from restart_guard.commands.parameters import duration, pass_session
from restart_guard.config.load import picked
from restart_guard.config.values import printable
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@pass_session
def command(
    session: Session,
    *,
    check: str | None,
    target: str | None,
    failed: bool,
    since: float | None,
    incident: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show the events in the journal, newest first."""
    if check is not None and target is not None:
        raise UsageError("--check and --target exclude each other.")
    kind = "check" if check is not None else "target" if target is not None else None
    journal = Journal.open_to_read(session.config.state_dir)
    wanted = Wanted(
        kind=kind,
        subject=printable(check or target or "") or None,
        status="failure" if failed else None,
        since=clock.now() - timedelta(seconds=since) if since is not None else None,
        incident=incident,
    )
    events = journal.history(wanted, limit=limit) if journal else []
    for known, name, what in ((session.config.checks, check, "check"), (session.config.targets, target, "target")):
        if name is not None and not events and not as_json:
            picked(known, [name], what=what, path=session.config.path)
    if as_json:
        session.terminal.document(events)
    elif events:
        session.terminal.table(("at", "what", "status", "detail", "delivered"), [_row(event) for event in events])
    else:
        about = f" about {check or target}" if check or target else ""
        such = " that are wanted here" if failed or since is not None or incident else " yet"
        session.terminal.note(f"The journal has no events{such}{about}.")


def _row(event: dict[str, Any]) -> tuple[str, ...]:
    subject = event.get(event["kind"], event.get("subject", ""))
    deliveries = [f"{delivery['destination']} {_state(delivery)}" for delivery in event["deliveries"]]
    status = "died" if event.get("died") else event["status"]
    return (event["at"], f"{event['kind']} {subject}", status, event["detail"], ", ".join(deliveries))


def _state(delivery: dict[str, Any]) -> str:
    error = f": {delivery['error']}" if delivery["error"] else ""
    return str(delivery["state"]) + error
