import click

from restart_guard.commands.parameters import duration, pass_session
from restart_guard.errors import UsageError
from restart_guard.session import Session
from restart_guard.standby import member, status


@click.command("standby")
@click.option("--for", "for_s", metavar="D", type=str, callback=duration, help="End after this time, such as 1m.")
@click.option("--status", "show", is_flag=True, help="Only show who leads.")
@click.option("--json", "as_json", is_flag=True, help="With --status: print one JSON document.")
@click.option("--hand-over", is_flag=True, help="Stop the targets here and let another host lead.")
@pass_session
def command(session: Session, *, for_s: float | None, show: bool, as_json: bool, hand_over: bool) -> None:
    """Take part in the group of [standby]: run the targets only while this host holds the lease.

    On SIGTERM it stops its targets and hands over at once. With --for the next process goes on.
    """
    if (show and hand_over) or (as_json and not show):
        raise UsageError("--status [--json] and --hand-over exclude each other.")
    if hand_over:
        leads = status.hand_over(session.config)
        text = (
            "This host stops its targets and hands over." if leads else "This host does not lead: nothing to hand over."
        )
        session.terminal.result(text)
    elif show:
        group = status.status(session.config)
        if as_json:
            session.terminal.document(group._asdict())
        else:
            session.terminal.report(status.line(group))
    else:
        member.run(session.config, session.terminal.result, for_s=for_s)
