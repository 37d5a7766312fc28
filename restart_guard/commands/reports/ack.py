import click

from restart_guard import clock
from restart_guard.commands.parameters import pass_session
from restart_guard.commands.reports.subjects import named, person
from restart_guard.errors import GuardError
from restart_guard.journal import acks, events
from restart_guard.journal.journal import Journal
from restart_guard.session import Session


@click.command("ack")
@click.argument("name")
@click.option("-m", "--message", "why", default="", metavar="WHY", help="What you know about it, for the others.")
@pass_session
def command(session: Session, *, name: str, why: str) -> None:
    """Say that you know about what is wrong with NAME, a check, refresh or target.

    Repeated alerts about it stop until it is well again; checks and relaunches go on. Where a check and a target have
    one name, write check:NAME.
    """
    config = session.config
    told = []
    with Journal.open(config.state_dir) as journal, journal.transaction():
        for kind, subject in named(config, name):
            incident = journal.incident(kind, subject)
            if incident is not None:
                ack = acks.Ack(incident.id, person(), config.redact(why), clock.stamp(clock.now()))
                acks.acknowledge(journal, (kind, subject), ack)
                events.append(config, journal, ("ack", f"{kind} {subject}"), ok=True, detail=ack.text)
                told.append(f"{kind} {subject}: incident {incident.id} is {ack.text}.")
    if not told:
        raise GuardError(f"Nothing is wrong with {name}: there is no open incident.")
    for text in told:
        session.terminal.result(text)
