import click

from restart_guard.commands.parameters import pass_session
from restart_guard.programs import operate
from restart_guard.programs.lifecycle import Command
from restart_guard.session import Session


@click.command("start")
@click.argument("names", metavar="[TARGET]...", nargs=-1)
@pass_session
def command(session: Session, *, names: tuple[str, ...]) -> int:
    """Start each TARGET (default: all) and guard it from now on.

    A program that already runs is only guarded. Exit code: 0 all run, 1 one does not stay up, 75 another process is
    acting on it.
    """
    targets = operate.chosen(session.config, names)
    return session.report_all(operate.run(session.config, targets, Command.START))
