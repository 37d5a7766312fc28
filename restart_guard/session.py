"""The start of every command: the config, loaded when it is first needed, and the terminal."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from restart_guard import trust
from restart_guard.alerts.channels.registry import options
from restart_guard.config import load as config_file
from restart_guard.config.options import Config
from restart_guard.errors import ExitCode
from restart_guard.terminal import Terminal

if TYPE_CHECKING:
    from restart_guard.programs.results import ActionResult


class Session:
    """One run of the command line. ``config_option`` and the terminal's verbosity are set once that has been read."""

    def __init__(self) -> None:
        self.terminal = Terminal()
        self.config_option: Path | None = None
        self._config: Config | None = None

    @property
    def config(self) -> Config:
        """Raises ConfigError with every problem."""
        if self._config is None:
            path = self.path
            config = config_file.load(path, os.environ, options)
            is_named = self.config_option is not None or bool(os.environ.get("RESTART_GUARD_CONFIG"))
            trust.check(config, is_named=is_named)
            self._config = config
            self.terminal.redact = self._config.redact
            self.terminal.detail(f"config: {path}")
            for warning in self._config.warnings:
                self.terminal.note(f"warning: {warning}")
        return self._config

    @property
    def path(self) -> Path:
        """The config file, whether it can be loaded or not. Raises ConfigError if there is none."""
        return config_file.find(self.config_option, os.environ)

    @property
    def state_dir(self) -> Path:
        """The state directory, also if the config could not be loaded."""
        return self._config.state_dir if self._config else config_file.default_state_dir(os.environ)

    def report_all(self, results: "Iterable[ActionResult]", *, tick: bool = False) -> int:
        """Print each result as it comes. Returns the exit code."""
        reported: list[ActionResult] = []
        for result in results:
            reported.append(result)
            if not (tick and result.busy):
                self.report(result)
        if not reported and not tick and not self.config.targets:
            self.terminal.note(f"There are no targets in {self.config.path}.")
        if not reported and tick and sys.stdout.isatty():
            self.terminal.note("Nothing to do: no program has died. To restart running programs, use --cold.")
        if not all(result.ok for result in reported):
            return ExitCode.FAILED
        return ExitCode.BUSY if any(result.busy for result in reported) and not tick else ExitCode.DONE

    def report(self, result: "ActionResult") -> None:
        """Print one result: a success to stdout, a failure to stderr."""
        say = self.terminal.result if result.ok and not result.busy else self.terminal.error
        if result.text:
            say(f"{result.name}: {result.text}")
