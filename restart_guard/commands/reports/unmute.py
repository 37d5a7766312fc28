import click

from restart_guard.commands.parameters import pass_session
from restart_guard.commands.reports.subjects import named
from restart_guard.errors import UsageError
from restart_guard.journal import events, mutes
from restart_guard.journal.journal import Journal
from restart_guard.session import Session


@click.command("unmute")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that is muted.")
@pass_session
def command(session: Session, *, names: tuple[str, ...], everything: bool) -> None:
    """End the mute of NAMEs. What is still bad is told with the next tick."""
    if bool(names) == everything:
        raise UsageError("Name what is to be told again, or say --all.")
    config = session.config
    subjects = {":".join(one) for name in names for one in named(config, name)}
    with Journal.open(config.state_dir) as journal, journal.transaction():
        ended = mutes.end(journal, list(mutes.current(journal)) if everything else subjects)
        for subject in ended:
            events.append(config, journal, ("mute", subject.replace(":", " ", 1)), ok=True, detail="ended")
    session.terminal.result("Told again." if ended else "Nothing of that was muted.")
