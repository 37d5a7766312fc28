"""``restart`` and ``status`` as cron and monitors run them each minute. Their plain command lines are read here, since
click is a fifth of such a run; every other command line is click's."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from restart_guard.config.options import Config
from restart_guard.counts import counted
from restart_guard.durations import span
from restart_guard.errors import JournalError
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
    code = session.report_all(tick(session.config, operate.chosen(session.config, names)), tick=True)
    publish(session.config)
    return code


def publish(config: Config) -> None:
    """Write the page and the metrics, if the config has any."""
    if config.page is not None or config.metrics is not None:
        # Most configs have neither.
        from restart_guard.reports.publish import publish as write

        write(config)


HEADS = ("target", "state", "pid", "up", "relaunches", "last death", "why")
WHOLE = (0, 1, 2, 3, 4)
_State = tuple[Target, Observation, int]


def status(session: Session, names: Sequence[str], *, as_json: bool) -> int:
    """Show each target. Returns the exit code that init scripts give."""
    rows = states(session, names)
    if as_json:
        session.terminal.document([shown(target, observed, restarts) for target, observed, restarts in rows])
    elif not rows:
        session.terminal.note(f"There are no targets in {session.config.path}.")
    elif sys.stdout.isatty():
        session.terminal.table(HEADS, cells(session.config, rows), whole=WHOLE)
    else:
        for target, observed, restarts in rows:
            session.terminal.report(_line(target, observed, restarts))
    return operate.lsb_code([observed.state for _, observed, _ in rows])


def states(session: Session, names: Sequence[str]) -> list[_State]:
    config = session.config
    rows = operate.status(config, operate.chosen(config, names))
    if config.standby is not None:
        # Most hosts are in no group.
        from restart_guard.standby.memory import in_group

        rows = [(target, in_group(config, target, observed), restarts) for target, observed, restarts in rows]
    return rows


def cells(config: Config, rows: Sequence[_State]) -> list[tuple[str, ...]]:
    """For a person at a terminal, with the last deaths if the journal can be read."""
    # A monitor that asks each minute has no terminal.
    from restart_guard.journal.journal import Journal

    deaths = {}
    with suppress(JournalError):
        journal = Journal.open_to_read(config.state_dir)
        deaths = journal.last_deaths() if journal is not None else {}
    found: list[tuple[str, ...]] = []
    for target, observed, restarts in rows:
        process, died = observed.process, deaths.get(target.name)
        up = "" if process is None else span(process_table.uptime_s(process))
        later = "" if observed.next_try_s is None else f"next try in {span(observed.next_try_s)}"
        death = "" if died is None else f"{day_and_time(died.at)} {died.detail.removeprefix('died: ')}"
        why = "; ".join(part for part in (later, observed.why) if part)
        pid = "" if process is None else str(process.pid)
        found.append((target.name, observed.state.value, pid, up, str(restarts or ""), death, why))
    return found


def day_and_time(moment: datetime) -> str:
    """Local, as in a log that is read: ``11-27 14:06:42``."""
    return f"{moment.astimezone():%m-%d %H:%M:%S}"


def _line(target: Target, observed: Observation, restarts: int) -> str:
    alive = (
        f"  pid {observed.process.pid}  up {span(process_table.uptime_s(observed.process))}" if observed.process else ""
    )
    again = f"  {counted(restarts, 'relaunch', 'relaunches')}" if restarts else ""
    later = f"  next try in {span(observed.next_try_s)}" if observed.next_try_s is not None else ""
    why = f"  ({observed.why})" if observed.why else ""
    return f"{target.name}: {observed.state.value}{alive}{later}{again}{why}"
