"""What the commands' click parameters share."""

import click

from restart_guard.durations import Duration
from restart_guard.session import Session


def duration(_context: click.Context, parameter: click.Parameter, value: str | None) -> Duration | None:
    """A click callback: a duration as the config writes it."""
    try:
        return None if value is None else Duration.parse(value)
    except ValueError as error:
        raise click.BadParameter(f"expected {Duration.wanted}, was {value}", param=parameter) from error


pass_session = click.make_pass_decorator(Session)
