from typing import Any

import click

from restart_guard.commands.parameters import pass_session
from restart_guard.config.load import picked
from restart_guard.config.values import printable
from restart_guard.errors import UsageError
from restart_guard.journal.journal import Journal
from restart_guard.session import Session


@click.command("history")
@click.option("--check", help="Only this check.")
@click.option("--target", help="Only this target.")
@click.option("-n", "limit", type=click.IntRange(1, 10**9), default=20, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@pass_session
def command(session: Session, *, check: str | None, target: str | None, limit: int, as_json: bool) -> None:
    """Show the events in the journal, newest first."""
    if check is not None and target is not None:
        raise UsageError("--check and --target exclude each other.")
    kind = "check" if check is not None else "target" if target is not None else None
    journal = Journal.open_to_read(session.config.state_dir)
    events = (
        journal.history(kind=kind, subject=printable(check or target or "") or None, limit=limit) if journal else []
    )
    for known, name, what in ((session.config.checks, check, "check"), (session.config.targets, target, "target")):
        if name is not None and not events and not as_json:
            picked(known, [name], what=what, path=session.config.path)
    if as_json:
        session.terminal.document(events)
    elif events:
        session.terminal.table(("at", "what", "status", "detail", "delivered"), [_row(event) for event in events])
    else:
        about = f" about {check or target}" if check or target else ""
        session.terminal.note(f"The journal has no events yet{about}.")


def _row(event: dict[str, Any]) -> tuple[str, ...]:
    subject = event.get(event["kind"], event.get("subject", ""))
    deliveries = [f"{delivery['destination']} {_state(delivery)}" for delivery in event["deliveries"]]
    return (event["at"], f"{event['kind']} {subject}", event["status"], event["detail"], ", ".join(deliveries))


def _state(delivery: dict[str, Any]) -> str:
    error = f": {delivery['error']}" if delivery["error"] else ""
    return str(delivery["state"]) + error
