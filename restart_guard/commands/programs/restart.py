import click

from restart_guard.commands.parameters import pass_session
from restart_guard.commands.programs import plain
from restart_guard.errors import UsageError
from restart_guard.programs import operate
from restart_guard.programs.lifecycle import Command
from restart_guard.programs.target import StopOptions
from restart_guard.session import Session


@click.command("restart")
@click.argument("names", metavar="[TARGET]...", nargs=-1)
@click.option("--cold", is_flag=True, help="Stop running programs gently, then start them.")
@click.option("--hot", is_flag=True, help="Reload running programs in place, by reload_signal or reload_command.")
@pass_session
def command(session: Session, *, names: tuple[str, ...], cold: bool, hot: bool) -> int:
    """Restart each TARGET (default: all) that has died. Cron runs this every minute.

    A program without a pid lock is left alone. Prints nothing if there is nothing to do.
    """
    if cold and hot:
        raise UsageError("--cold and --hot exclude each other.")
    if not cold and not hot:
        return plain.restart(session, names)
    targets = operate.chosen(session.config, names)
    stop = StopOptions(tell=session.terminal.countdown)
    return session.report_all(operate.run(session.config, targets, Command.COLD if cold else Command.HOT, stop))
