import sys

import click

from restart_guard.commands.parameters import pass_session
from restart_guard.commands.programs import plain
from restart_guard.errors import UsageError
from restart_guard.session import Session


@click.command("status")
@click.argument("names", metavar="[TARGET]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--watch", "is_live", is_flag=True, help="Draw it anew each second, until Ctrl-C.")
@pass_session
def command(session: Session, *, names: tuple[str, ...], as_json: bool, is_live: bool) -> int:
    """Show each TARGET (default: all): state, pid, uptime, number of relaunches, last death.

    Exit codes as for init scripts: 0 all run, 1 one is dead and has a pid lock, 3 one is stopped, 4 unknown.
    """
    if is_live and (as_json or not sys.stdout.isatty()):
        raise UsageError("--watch needs a terminal, and no --json.")
    if is_live:
        session.terminal.live_table(
            plain.HEADS, lambda: plain.cells(session.config, plain.states(session, names)), whole=plain.WHOLE
        )
        return 0
    return plain.status(session, names, as_json=as_json)
