"""What every command starts from: the config, loaded when first asked for, and the terminal."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from restart_guard.config import load as config_file
from restart_guard.config.options import Config
from restart_guard.durations import Duration
from restart_guard.errors import ExitCode
from restart_guard.terminal import Terminal

if TYPE_CHECKING:
    from restart_guard.programs.actions import ActionResult


class Session:
    """One run of the command line."""

    def __init__(self, config_option: Path | None, terminal: Terminal) -> None:
        self.terminal = terminal
        self.config_option = config_option
        self._config: Config | None = None

    @property
    def config(self) -> Config:
        """Raises ConfigError with everything that is wrong."""
        if self._config is None:
            path = self.path
            self._config = config_file.load(path, os.environ)
            self.terminal.redact = self._config.redact
            self.terminal.detail(f"config: {path}")
            for warning in self._config.warnings:
                self.terminal.note(f"warning: {warning}")
        return self._config

    @property
    def path(self) -> Path:
        """The config file, whether it can be loaded or not. Raises ConfigError where there is none."""
        return config_file.find(self.config_option, os.environ)

    @property
    def state_dir(self) -> Path:
        """The state directory, also when the config could not be loaded."""
        return self._config.state_dir if self._config else config_file.default_state_dir(os.environ)

    def told(self, results: "Iterable[ActionResult]", *, tick: bool = False) -> int:
        """Print what was done to each target as it comes; the exit code."""
        done_all: list[ActionResult] = []
        for done in results:
            done_all.append(done)
            if not (tick and done.busy):
                self.tell(done)
        if not done_all and not tick and not self.config.targets:
            self.terminal.note(f"There are no targets in {self.config.path}.")
        if not done_all and tick and sys.stdout.isatty():
            self.terminal.note("Nothing to do: the tick only brings back what has died; --cold restarts what runs.")
        if not all(done.ok for done in done_all):
            return ExitCode.FAILED
        return ExitCode.BUSY if any(done.busy for done in done_all) and not tick else ExitCode.DONE

    def tell(self, done: "ActionResult") -> None:
        """Print what was done to a target: what went well on stdout, what did not on stderr."""
        say = self.terminal.result if done.ok and not done.busy else self.terminal.error
        if done.text:
            say(f"{done.name}: {done.text}")


def duration(_context: click.Context, parameter: click.Parameter, value: str | None) -> Duration | None:
    """A click callback: a duration as the config writes it."""
    try:
        return None if value is None else Duration.parse(value)
    except ValueError as error:
        raise click.BadParameter(f"expected {Duration.wanted}, was {value}", param=parameter) from error


pass_session = click.make_pass_decorator(Session)
