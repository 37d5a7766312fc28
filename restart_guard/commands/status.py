import click

from restart_guard.counts import counted
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
    """Show each TARGET (default: all): state, pid, uptime, number of relaunches.

    Exit codes as for init scripts: 0 all run, 1 one is dead and has a pid lock, 3 one is stopped, 4 unknown.
    """
    config = session.config
    rows = [
        (target, in_group(config, target, observed), restarts)
        for target, observed, restarts in operate.status(config, operate.chosen(config, names))
    ]
    if as_json:
        session.terminal.document([actions.shown(target, observed, restarts) for target, observed, restarts in rows])
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
