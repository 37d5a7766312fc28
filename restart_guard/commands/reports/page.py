from pathlib import Path

import click

from restart_guard.commands.parameters import pass_session
from restart_guard.errors import GuardError
from restart_guard.reports import publish
from restart_guard.session import Session


@click.command("page")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where. Default: [page] file, or page.html in state_dir."
)
@pass_session
def command(session: Session, *, output: Path | None) -> None:
    """Write the page that shows everything, now.

    Ticks and a watch write it too where the config has a section [page].
    """
    path = output or publish.page_file(session.config)
    error = publish.write_page(session.config, path)
    if error:
        raise GuardError(f"{error}.")
    session.terminal.result(f"The page is in {path}")
