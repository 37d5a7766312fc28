import click

from restart_guard.commands.parameters import pass_session
from restart_guard.programs import operate
from restart_guard.programs.lifecycle import Command
from restart_guard.session import Session


@click.command("kill")
@click.argument("names", metavar="[TARGET]...", nargs=-1)
@pass_session
def command(session: Session, *, names: tuple[str, ...]) -> int:
    """Kill each TARGET (default: all) and everything it started. The pid lock stays, so the next `restart` relaunches
    it."""
    targets = operate.chosen(session.config, names)
    return session.report_all(operate.run(session.config, targets, Command.KILL))
