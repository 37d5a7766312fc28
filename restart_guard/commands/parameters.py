"""What the commands share: parameters of click, and how a catch-up ends."""

from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

import click

from restart_guard.durations import Duration
from restart_guard.errors import BusyError
from restart_guard.session import Session


def duration(_context: click.Context, parameter: click.Parameter, value: str | None) -> Duration | None:
    """A click callback: a duration as the config writes it."""
    try:
        return None if value is None else Duration.parse(value)
    except ValueError as error:
        raise click.BadParameter(f"expected {Duration.wanted}, was {value}", param=parameter) from error


_Result = TypeVar("_Result")


def quietly(runs: Iterator[_Result]) -> Iterator[_Result]:
    """The results of a catch-up: one that meets the job itself has nothing to do."""
    with suppress(BusyError):
        yield from runs


pass_session = click.make_pass_decorator(Session)
