import click

from restart_guard.commands.parameters import duration, pass_session
from restart_guard.commands.reports.subjects import named, person
from restart_guard.errors import UsageError
from restart_guard.journal import events, mutes
from restart_guard.journal.journal import Journal
from restart_guard.session import Session


@click.command("mute")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Everything of this host.")
@click.option(
    "--for", "for_s", metavar="D", type=str, required=True, callback=duration, help="For how long, such as 2h."
)
@click.option("-m", "--message", "why", default="", metavar="WHY", help="Why, for the others.")
@pass_session
def command(session: Session, *, names: tuple[str, ...], everything: bool, for_s: float, why: str) -> None:
    """Send nothing about NAMEs, checks, refreshes or targets, for a while.

    All goes on and is recorded. What is still bad when the time is over is told then.
    """
    if bool(names) == everything:
        raise UsageError("Name what is to be muted, or say --all.")
    config = session.config
    subjects = [mutes.EVERYTHING] if everything else [":".join(one) for name in names for one in named(config, name)]
    with Journal.open(config.state_dir) as journal, journal.transaction():
        mute = mutes.begin(journal, subjects, for_s, person(), config.redact(why))
        for subject in subjects:
            events.append(config, journal, ("mute", subject.replace(":", " ", 1)), ok=True, detail=mute.text)
    session.terminal.result(f"{', '.join(names) or 'Everything'}: {mute.text}.")
