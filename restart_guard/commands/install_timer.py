import click

from restart_guard.commands.change_timer import change_timer
from restart_guard.commands.parameters import duration, pass_session
from restart_guard.doctor.programs import missing_for_timer
from restart_guard.session import Session
from restart_guard.timer import install


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
    plan = install.plan_install(session.config, backend, watch=watch, random_delay_s=random_delay or 0)
    change_timer(session, plan, dry_run=dry_run, yes=yes, same="The timer is already installed.")
