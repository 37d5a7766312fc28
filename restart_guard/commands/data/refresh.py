import click

from restart_guard.commands.parameters import pass_session, quietly
from restart_guard.errors import ExitCode
from restart_guard.refreshes import job
from restart_guard.refreshes.messages import example
from restart_guard.session import Session


@click.command("refresh")
@click.argument("names", metavar="[REFRESH]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--dry-run", is_flag=True, help="Only report the differences. Write and record nothing.")
@click.option("--force", is_flag=True, help="Replace the data even if more than max_change differs.")
@click.option("--save", is_flag=True, help="Have Redis save itself to disk afterwards, and wait for it.")
@click.option("--if-due", is_flag=True, help="Only refreshes that missed their last scheduled time.")
@pass_session
def command(
    session: Session, *, names: tuple[str, ...], as_json: bool, dry_run: bool, force: bool, save: bool, if_due: bool
) -> int:
    """Rebuild the Redis data of each REFRESH (default: all) from MySQL, and report the differences.

    A reader sees the old data or the new data, never a part. Exit code: 0 done, 1 refused or failed (the old data
    stays), 75 another refresh, or a check of the same data, is running.
    """
    config, terminal = session.config, session.terminal
    chosen, results = job.chosen(config, names), []
    if if_due:
        chosen = job.due(config, chosen)
    with terminal.counting("rows") as progress:
        if dry_run:
            runs = job.look(config, chosen, force=force, progress=progress)
        else:
            wish = job.RefreshOptions(force, save)
            runs = job.run(config, chosen, wish=wish, progress=progress, say=terminal.note, only_due=if_due)
        for result in quietly(runs) if if_due else runs:
            results.append(result)
            if not result.done.is_room_known:
                terminal.detail(f"{result.done.name}: Redis does not answer INFO, so nobody knows whether it had room")
            if not as_json:
                tell = terminal.result if result.done.error is None else terminal.failure
                tell(f"{result.done.name}: {job.verdict(result.done)}")
                for difference in job.examples(result.done):
                    terminal.result(f"  {example(difference, 'en')}")
            if result.recorded.journal_error:
                terminal.error(result.recorded.journal_error)
    if as_json:
        terminal.document([result.shown() for result in results])
    good = all(result.done.error is None and result.recorded.journal_error is None for result in results)
    return ExitCode.DONE if good else ExitCode.FAILED
