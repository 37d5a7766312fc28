import click

from restart_guard.commands.parameters import pass_session
from restart_guard.errors import DeliveryError, ExitCode, UsageError
from restart_guard.mysql import task_monitor
from restart_guard.session import Session

_MODES = {
    "unique": "by its unique run_id.",
    "sidecar": "by the table restart_guard_applied beside it.",
    "look": "a row is searched for by a mark in its description before it is sent again.",
}


@click.command("init-db")
@pass_session
def command(session: Session) -> int:
    """Create the table task_monitor in MySQL, with all columns. A table that exists is never altered."""
    settings = session.config.mysql
    if settings is None:
        raise UsageError(f"{session.config.path} has no [mysql]: it says where to create the table.")
    try:
        created = task_monitor.create(settings)
    except DeliveryError as error:
        session.terminal.error(str(error))
        session.terminal.error("If you may not create tables, ask your database administrator to run this:")
        session.terminal.error(";\n".join(task_monitor.statements(settings)) + ";")
        return ExitCode.FAILED
    done = "already exists and was not changed" if created.was_there else "was created"
    lacks = f" It does not have {', '.join(created.missing)}; these are left out." if created.missing else ""
    session.terminal.result(f"{task_monitor.name(settings)} {done}.{lacks} Exactly once: {_MODES[created.mode]}")
    return ExitCode.DONE
