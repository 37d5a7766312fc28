import click

from restart_guard.checks import job
from restart_guard.checks.messages import summary
from restart_guard.commands.parameters import duration, pass_session, quietly
from restart_guard.errors import ExitCode
from restart_guard.session import Session


@click.command("check-redis")
@click.argument("names", metavar="[CHECK]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--dry-run", is_flag=True, help="Only read. Recover, record and send nothing.")
@click.option("--if-due", is_flag=True, help="Only checks that missed their last scheduled time.")
@click.option("--late", metavar="D", type=str, callback=duration, help="With --if-due: how late a check may be.")
@pass_session
def command(
    session: Session, *, names: tuple[str, ...], as_json: bool, dry_run: bool, if_due: bool, late: float | None
) -> int:
    """Read the data of each CHECK (default: all) and judge it.

    A bad read is followed by up to `retries` restart attempts, each followed by a new read. The outcome goes to the
    journal, to the MySQL table task_monitor and, if the data stays bad, to a person over WeCom.

    Exit code: 0 all data is good and all was delivered, 1 some data stayed bad or something waits for its delivery,
    75 another check-redis is running.
    """
    config, terminal = session.config, session.terminal
    checks = job.chosen(config, names)
    checks = job.due(config, checks, late_s=late or 0.0) if if_due else checks
    results = []
    with terminal.progress("reading") as progress:
        if dry_run:
            runs = job.read_only(config, checks, progress=progress)
        else:
            runs = job.run(
                config, checks, progress=progress, say=terminal.note, late_s=(late or 0.0) if if_due else None
            )
        for result in quietly(runs) if if_due else runs:
            results.append(result)
            if not as_json:
                verdict, tell = ("good", terminal.result) if result.outcome.ok else ("FAILED", terminal.failure)
                tell(f"{result.outcome.check}: {verdict}: {summary(result.outcome, 'en')}")
            if result.recorded.journal_error:
                terminal.error(result.recorded.journal_error)
    if as_json:
        terminal.document([result.shown() for result in results])
    good = all(result.outcome.ok and result.recorded.is_complete for result in results)
    return ExitCode.DONE if good else ExitCode.FAILED
