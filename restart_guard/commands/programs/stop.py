import click

from restart_guard.commands.parameters import duration, pass_session
from restart_guard.programs import operate
from restart_guard.programs.lifecycle import Command
from restart_guard.programs.target import StopOptions
from restart_guard.session import Session


@click.command("stop")
@click.argument("names", metavar="[TARGET]...", nargs=-1)
@click.option("--timeout", type=str, callback=duration, help="How long to wait (default: stop_timeout of each).")
@click.option("--force", is_flag=True, help="Kill processes that still run then.")
@pass_session
def command(session: Session, *, names: tuple[str, ...], timeout: float | None, force: bool) -> int:
    """Stop each TARGET (default: all): no relaunch from now on, TERM, and wait until all its processes have ended.

    Exit code: 0 all are down, 1 one still runs, 75 another process is acting on it.
    """
    targets = operate.chosen(session.config, names)
    stop = StopOptions(timeout, force, tell=session.terminal.countdown)
    return session.report_all(operate.run(session.config, targets, Command.STOP, stop))
