"""The one place where a command line begins, and where errors become texts and exit codes."""

import sys
from collections.abc import Sequence

from restart_guard import __version__, clock
from restart_guard.commands import plain
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
        return _bug(session, error)


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


def _bug(session: Session, error: Exception) -> int:
    """Report a bug: one line for the operator, the traceback in the log."""
    log = session.state_dir / "restart-guard.log"
    # Only a bug needs it.
    from traceback import format_exception

    text = session.terminal.redact("".join(format_exception(error)))
    try:
        session.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{clock.stamp(clock.now())} restart-guard {__version__} {sys.argv[1:2]}\n{text}\n")
        where = f"the traceback is in {log}"
    except OSError:
        where = f"and it could not be logged:\n{text}"
    session.terminal.error(f"This is a bug in restart-guard ({type(error).__name__}); {where}")
    return ExitCode.BUG
