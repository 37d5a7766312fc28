import click

from restart_guard.commands.parameters import pass_session
from restart_guard.journal.journal import Journal
from restart_guard.reports.metrics import text
from restart_guard.reports.summary import summary
from restart_guard.session import Session


@click.command("metrics")
@pass_session
def command(session: Session) -> None:
    """Print the metrics in Prometheus' text format, as [metrics] textfile has them."""
    config = session.config
    session.terminal.report(text(config, summary(config, Journal.open_to_read(config.state_dir))).rstrip("\n"))
