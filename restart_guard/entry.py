"""The one place where a command line begins, and where errors become texts and exit codes."""

from collections.abc import Sequence

from restart_guard import bug_log
from restart_guard.commands.programs import plain
from restart_guard.errors import ExitCode, GuardError
from restart_guard.session import Session
from restart_guard.terminal import Terminal


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return the exit code. Nothing is raised: every error becomes text."""
    session = Session()
    try:
        return _finish(session.terminal, _invoke(arguments, session))
    except KeyboardInterrupt:
        session.terminal.error("Interrupted.")
        return ExitCode.INTERRUPTED
    except GuardError as error:
        session.terminal.error(str(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001 (the edge: a bug gets a line, its traceback goes to the log)
        session.terminal.error(bug_log.write(session.state_dir, error, session.terminal.redact))
        return ExitCode.BUG


def _invoke(arguments: Sequence[str], session: Session) -> int:
    job = plain.read(arguments, session)
    if job is not None:
        return job()
    # An idle tick must not pay for click.
    from restart_guard import cli

    return cli.run(arguments, session)


def _finish(terminal: Terminal, code: int) -> int:
    """The command's own exit code, or failure if its output could not be written."""
    terminal.close()
    if terminal.write_error is None or isinstance(terminal.write_error, BrokenPipeError):
        return code
    terminal.error(f"The output could not be written: {terminal.write_error.strerror}.")
    terminal.close()
    return code or ExitCode.FAILED
