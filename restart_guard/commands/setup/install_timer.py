import click

from restart_guard import clock
from restart_guard.commands.parameters import duration, pass_session
from restart_guard.commands.setup.change_timer import change_timer
from restart_guard.doctor.programs import missing_for_timer
from restart_guard.journal.due import note_seen, scheduled
from restart_guard.journal.journal import Journal
from restart_guard.session import Session
from restart_guard.timer import install
from restart_guard.timer.schedule import next_slot


@click.command("install-timer")
@click.option("--watch", is_flag=True, help="Also run a watch, which restarts programs as soon as they exit.")
@click.option(
    "--random-delay",
    metavar="D",
    type=str,
    callback=duration,
    help="Run the check up to D later, per host.",
)
@click.option(
    "--backend",
    type=click.Choice([*install.BACKENDS, "print"]),
    default="cron",
    help="print: only show the lines for cron.",
)
@click.option("--dry-run", is_flag=True, help="Show what would change.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def command(
    session: Session, *, watch: bool, random_delay: float | None, backend: str, dry_run: bool, yes: bool
) -> None:
    """Write the lines that cron runs into your crontab, as one marked block. All other lines stay as they are.

    These lines run `restart` each minute and, if the config has checks, the weekly check, and once an hour a look for a
    missed check. With --backend cron.d (root) they go to a file of their own, with --backend systemd they become units:
    the system's for root, else your own.
    """
    if backend == "print":
        for line in install.crontab_lines(session.config, watch=watch, random_delay_s=random_delay or 0):
            session.terminal.report(line)
        return
    for what, advice in missing_for_timer(session.config) if backend in ("cron", "cron.d") else ():
        session.terminal.note(f"{what}: {advice}.")
    for name in install.unset_variables(session.config, backend):
        session.terminal.note(
            f"The timer does not set {name}, in which a secret of the config is: write it into a file, and "
            '{ file = "…" } in the config.'
        )
    plan = install.plan_install(session.config, backend, watch=watch, random_delay_s=random_delay or 0)
    done = change_timer(session, plan, dry_run=dry_run, yes=yes, same="The timer is already installed.")
    if done and not dry_run:
        _tell_first_times(session)


def _tell_first_times(session: Session) -> None:
    """Only times after the installation count: a check that is new has missed nothing."""
    jobs = scheduled(session.config)
    if not jobs:
        return
    with Journal.open(session.config.state_dir) as journal:
        for job in jobs:
            note_seen(journal, job)
            first = next_slot(job.schedule, now=clock.now())
            session.terminal.note(f"{job.kind} {job.subject} is due {first:%Y-%m-%d %H:%M}.")
