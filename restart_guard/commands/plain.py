"""``restart`` and ``status`` as cron and monitors run them each minute. Their plain command lines are read here, since
click is a fifth of such a run; every other command line is click's."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from restart_guard.counts import counted
from restart_guard.durations import span
from restart_guard.host import process_table
from restart_guard.programs import operate
from restart_guard.programs.results import shown
from restart_guard.programs.target import Observation, Target
from restart_guard.programs.tick import tick
from restart_guard.session import Session


def read(arguments: Sequence[str], session: Session) -> Callable[[], int] | None:
    """The work that a command line asks for, ``[-q | -c FILE]... restart | status [--json] [TARGET]...``; None for any
    other, and the session is unchanged."""
    rest = list(arguments)
    config: Path | None = None
    verbosity = 0
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in ("-c", "--config") and rest:
            config = Path(rest.pop(0))
        elif option in ("-q", "--quiet"):
            verbosity = -1
        else:
            return None
    command, *names = rest or [""]
    as_json = command == "status" and names[:1] == ["--json"]
    names = names[as_json:]
    if command not in ("restart", "status") or any(name.startswith("-") for name in names):
        return None
    session.config_option = config
    session.terminal.verbosity = verbosity
    return (
        partial(restart, session, names) if command == "restart" else partial(status, session, names, as_json=as_json)
    )


def restart(session: Session, names: Sequence[str]) -> int:
    """One tick. Returns the exit code."""
    return session.report_all(tick(session.config, operate.chosen(session.config, names)), tick=True)


def status(session: Session, names: Sequence[str], *, as_json: bool) -> int:
    """Show each target. Returns the exit code that init scripts give."""
    config = session.config
    rows = operate.status(config, operate.chosen(config, names))
    if config.standby is not None:
        # Most hosts are in no group.
        from restart_guard.standby.memory import in_group

        rows = [(target, in_group(config, target, observed), restarts) for target, observed, restarts in rows]
    if as_json:
        session.terminal.document([shown(target, observed, restarts) for target, observed, restarts in rows])
    else:
        if not rows:
            session.terminal.note(f"There are no targets in {session.config.path}.")
        for target, observed, restarts in rows:
            session.terminal.report(_line(target, observed, restarts))
    return operate.lsb_code([observed.state for _, observed, _ in rows])


def _line(target: Target, observed: Observation, restarts: int) -> str:
    alive = (
        f"  pid {observed.process.pid}  up {span(process_table.uptime_s(observed.process))}" if observed.process else ""
    )
    again = f"  {counted(restarts, 'relaunch', 'relaunches')}" if restarts else ""
    later = f"  next try in {span(observed.next_try_s)}" if observed.next_try_s is not None else ""
    why = f"  ({observed.why})" if observed.why else ""
    return f"{target.name}: {observed.state.value}{alive}{later}{again}{why}"
