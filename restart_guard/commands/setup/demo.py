import click

from restart_guard.commands.parameters import pass_session
from restart_guard.demo import story
from restart_guard.session import Session


@click.command("demo")
@pass_session
def command(session: Session) -> int:
    """Show the weekly job on a real Redis of its own, with a local alert receiver. Nothing is left behind."""
    return story.run(session.terminal.report)
