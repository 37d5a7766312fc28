import click

from restart_guard.durations import span
from restart_guard.host import process_table
from restart_guard.programs import actions, operate
from restart_guard.programs.target import Observation, Target
from restart_guard.session import Session, pass_session
from restart_guard.standby.memory import in_group


@click.command("status")
@click.argument("names", metavar="[TARGET]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@pass_session
def command(session: Session, *, names: tuple[str, ...], as_json: bool) -> int:
    """Show each TARGET (default: all): state, pid, uptime, relaunches.

    Exit code as init scripts have it: 0 all run, 1 one is dead with its pid lock there, 3 one is stopped, 4 unknown.
    """
    config = session.config
    observed = operate.status(config, operate.chosen(config, names))
    found = [(one, in_group(config, one, seen), restarts) for one, seen, restarts in observed]
    if as_json:
        session.terminal.document([actions.shown(one, seen, restarts) for one, seen, restarts in found])
    else:
        if not found:
            session.terminal.note(f"There are no targets in {session.config.path}.")
        for one, seen, restarts in found:
            session.terminal.report(_line(one, seen, restarts))
    return operate.lsb_code([seen.state for _, seen, _ in found])


def _line(one: Target, seen: Observation, restarts: int) -> str:
    alive = f"  pid {seen.who.pid}  up {span(process_table.uptime_s(seen.who))}" if seen.who else ""
    again = f"  relaunched {restarts} times" if restarts else ""
    later = f"  next try in {span(seen.next_try_s)}" if seen.next_try_s is not None else ""
    why = f"  ({seen.why})" if seen.why else ""
    return f"{one.name}: {seen.state.value}{alive}{later}{again}{why}"
