import os
import sys
from pathlib import Path

import click

from restart_guard import paths
from restart_guard.commands.parameters import pass_session
from restart_guard.config import template
from restart_guard.errors import GuardError
from restart_guard.session import Session


@click.command("init")
@click.option("--program", help="The program to guard, such as server/run.py.")
@pass_session
def command(session: Session, *, program: str | None) -> None:
    """Write a commented config.toml (or the file of -c) for your programs and checks. An existing file is never
    changed."""
    path = session.config_option or Path("config.toml")
    if program is None and sys.stdin.isatty() and not paths.exists(path):
        program = click.prompt("The program to guard (empty: none yet)", default="", show_default=False) or None
    name = "".join(letter if letter.isalnum() else "-" for letter in Path(program or "web").stem)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise GuardError(f"{path} already exists; nothing was changed.") from error
    except OSError as error:
        raise GuardError(f"{path} cannot be written: {error.strerror}.") from error
    with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor, so that it is never readable by others)
        file.write(template.config(name, program))
    if program and not paths.is_file(program):
        session.terminal.note(f"There is no {program} here yet; paths in {path} start at its folder.")
    start = "restart-guard start" if program else f"edit {path}, then restart-guard doctor"
    session.terminal.result(f"{path} was written. Next: {start}, then restart-guard install-timer")
