"""The part that install-timer and uninstall-timer share: show the change, ask, make it."""

import sys

import click

from restart_guard.session import Session
from restart_guard.timer import install


def change_timer(session: Session, plan: install.Plan, *, dry_run: bool, yes: bool, same: str) -> bool:
    """Show a change of the timer, ask for confirmation if a person is there, and make it; False if the person says no.
    Raises GuardError, click.Abort."""
    if not plan.changes and not plan.start:
        session.terminal.result(same)
        return True
    asks = sys.stdin.isatty() and sys.stdout.isatty() and not yes
    if dry_run or asks:
        for line in plan.diff:
            session.terminal.report(line)
    if dry_run:
        return True
    if asks and not click.confirm(f"Make this change to {plan.where}?", default=True):
        session.terminal.result("Nothing was changed.")
        return False
    for note in plan.notes:
        session.terminal.note(note)
    saved = install.carry_out(plan, session.state_dir)
    old = f"; the old crontab is saved as {saved}" if saved else ""
    session.terminal.result(f"{'Removed from' if plan.logs is None else 'Changed'}: {plan.where}{old}.")
    return True
