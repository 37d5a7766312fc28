from contextlib import suppress

import click

from restart_guard.commands.parameters import pass_session
from restart_guard.commands.setup.change_timer import change_timer
from restart_guard.errors import ConfigError
from restart_guard.session import Session
from restart_guard.timer import install


@click.command("uninstall-timer")
@click.option("--dry-run", is_flag=True, help="Show what would change.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def command(session: Session, *, dry_run: bool, yes: bool) -> None:
    """Remove what install-timer installed: the block in your crontab, the file in /etc/cron.d, the units. Nothing else
    changes."""
    with suppress(ConfigError):
        _ = (
            session.config
        )  # a broken config must not keep its jobs installed; it only says where to save the old crontab
    change_timer(session, install.plan_uninstall(session.path), dry_run=dry_run, yes=yes, same="No timer is installed.")
