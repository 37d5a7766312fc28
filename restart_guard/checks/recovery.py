"""The recovery between a bad read and the next one: a command, a target's cold restart, a refresh, or nothing."""

import os
import shlex

from restart_guard.checks.outcome import Attempt
from restart_guard.config.options import Check, Config
from restart_guard.host import hook
from restart_guard.host.hook import Hook
from restart_guard.journal.record import Say
from restart_guard.programs import actions, processes
from restart_guard.programs.lifecycle import Command
from restart_guard.programs.results import ActionOptions
from restart_guard.programs.target import target_of
from restart_guard.refreshes import job, messages

_LOCK_WAIT_S = 10.0


def recover(config: Config, name: str, check: Check, say: Say) -> Attempt:
    """Run the check's recovery once. Errors are in the attempt, never raised."""
    kind, _, what = check.recover.partition(":")
    if kind == "none":
        return Attempt("none", "read_again")
    if kind == "command":
        return _command(config, name, check, what)
    if kind == "restart":
        return _restart(config, what)
    return _refresh(config, what, say)


def _refresh(config: Config, name: str, say: Say) -> Attempt:
    """Run a refresh, whose lock the check holds; it is an event of its own in the journal."""
    result = job.rebuild(config, name, job.RefreshOptions(), progress=lambda _name, _rows: None, say=say, down=set())
    how = "refreshed" if result.done.error is None else "not_refreshed"
    return Attempt("refresh", how, f"{name}: {messages.summary(result.done, 'en')}")


def _restart(config: Config, name: str) -> Attempt:
    """A cold restart of a target, as restart --cold does it."""
    processes.prepare()
    target = target_of(config, name)
    result = actions.act(target, Command.COLD, ActionOptions(wait_s=_LOCK_WAIT_S))
    return Attempt("restart", "restarted" if result.ok and not result.busy else "not_restarted", name, result.text)


def _command(config: Config, name: str, check: Check, command: str) -> Attempt:
    """Run a command in the config's directory."""
    passed = {key: value for key, value in os.environ.items() if key not in config.secret_variables}
    environment = passed | {"RESTART_GUARD_CHECK": name}
    try:
        words = shlex.split(command)
    except ValueError as error:
        return Attempt("command", "not_started", str(error))
    ran = hook.run(Hook(words, config.path.parent, environment, check.recover_timeout), config.redact)
    return Attempt("command", ran.how, ran.detail, ran.said)
