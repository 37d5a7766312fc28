import click

from restart_guard.commands.parameters import pass_session
from restart_guard.errors import BusyError, ExitCode
from restart_guard.journal import delivery
from restart_guard.session import Session


@click.command("deliver")
@click.option("--all", "also_blocked", is_flag=True, help="Also retry blocked deliveries.")
@pass_session
def command(session: Session, *, also_blocked: bool) -> int:
    """Deliver the rows and alerts that are pending. Every job also does this by itself.

    Exit code: 0 nothing is left, 1 something is left, 75 another process is delivering.
    """
    which = delivery.Which.ALL if also_blocked else delivery.Which.ASKED
    tallies = delivery.deliver(session.config, which)
    for tally in tallies:
        if tally.delivered:
            session.terminal.result(f"{tally.destination}: {tally.delivered} delivered")
    for line in delivery.lines(tallies):
        session.terminal.error(line)
    if tallies and all(tally.busy for tally in tallies):
        raise BusyError("Another process is delivering; nothing was changed.")
    left = any(tally.pending or tally.blocked or tally.busy for tally in tallies)
    return ExitCode.FAILED if left else ExitCode.DONE
