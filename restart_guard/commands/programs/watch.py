from functools import partial

import click

from restart_guard.commands.parameters import duration, pass_session
from restart_guard.commands.programs import plain
from restart_guard.programs import operate, watch
from restart_guard.session import Session


@click.command("watch")
@click.argument("names", metavar="[TARGET]...", nargs=-1)
@click.option("--for", "for_s", metavar="D", type=str, callback=duration, help="End after this time, such as 1m.")
@click.option("--wait", is_flag=True, help="If another watch of this config runs, wait until it ends.")
@pass_session
def command(session: Session, *, names: tuple[str, ...], for_s: float | None, wait: bool) -> None:
    """Watch each TARGET (default: all) and restart it as soon as it exits.

    Ends on SIGTERM and SIGINT, with --for after that time; the targets run on. Exit code: 0 it has ended, 75 another
    process already watches this config.
    """
    config = session.config
    has_pages = config.page is not None or config.metrics is not None
    after = partial(plain.publish, config) if has_pages else None
    how = watch.Options(for_s=for_s, wait=wait, publish=after)
    watch.run(config, operate.chosen(config, names), session.report, how)
