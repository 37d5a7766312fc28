import click

from restart_guard.commands import plain
from restart_guard.commands.parameters import pass_session
from restart_guard.session import Session


@click.command("status")
@click.argument("names", metavar="[TARGET]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@pass_session
def command(session: Session, *, names: tuple[str, ...], as_json: bool) -> int:
    """Show each TARGET (default: all): state, pid, uptime, number of relaunches.

    Exit codes as for init scripts: 0 all run, 1 one is dead and has a pid lock, 3 one is stopped, 4 unknown.
    """
    return plain.status(session, names, as_json=as_json)
