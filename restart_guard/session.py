"""What every command starts from: the config, loaded when first asked for, and the terminal."""

import os
from pathlib import Path

import click

from restart_guard import config as config_file
from restart_guard.settings import Config
from restart_guard.terminal import Terminal


class Session:
    """One run of the command line."""

    def __init__(self, config_option: Path | None, terminal: Terminal) -> None:
        self.terminal = terminal
        self._config_option = config_option
        self._config: Config | None = None

    @property
    def config(self) -> Config:
        """Raises ConfigError with everything that is wrong."""
        if self._config is None:
            path = config_file.find(self._config_option, os.environ)
            self._config = config_file.load(path, os.environ)
            self.terminal.redact = self._config.redact
            self.terminal.detail(f"config: {path}")
            for warning in self._config.warnings:
                self.terminal.note(f"warning: {warning}")
        return self._config

    @property
    def state_dir(self) -> Path:
        """The state directory, also when the config could not be loaded."""
        return self._config.state_dir if self._config else config_file.default_state_dir(os.environ)


pass_session = click.make_pass_decorator(Session)
