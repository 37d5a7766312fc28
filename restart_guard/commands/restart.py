import click

from restart_guard import guard
from restart_guard.lifecycle import Command
from restart_guard.session import Session, pass_session


@click.command("restart")
@click.argument("names", metavar="[TARGET]...", nargs=-1)
@click.option("--cold", is_flag=True, help="Stop gently, then start.")
@pass_session
def command(session: Session, *, names: tuple[str, ...], cold: bool) -> int:
    """Bring back each TARGET (default: all) that should run and does not: the tick, for cron each minute.

    One without a pid lock is left alone. Prints nothing when there is nothing to do.
    """
    targets = guard.chosen(session.config, names)
    if cold:
        return session.told(guard.run(session.config, targets, Command.COLD))
    return session.told(guard.tick(session.config, targets), tick=True)
