"""The targets of a group on its leader: it keeps them running, as an operator would, and stops them."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from restart_guard import clock
from restart_guard.backoff import delay
from restart_guard.config.options import Config
from restart_guard.errors import BusyError, ExitCode, GuardError, told, why_not_started
from restart_guard.host import process_table
from restart_guard.programs import actions, fence, processes
from restart_guard.programs.crashes import Crashes
from restart_guard.programs.launch import how_it_ended
from restart_guard.programs.lifecycle import Command
from restart_guard.programs.results import ActionOptions, ActionResult
from restart_guard.programs.target import StopOptions, Target
from restart_guard.threads import in_background
from restart_guard.timer.jobs import command

_AGAIN_S = 1.0
_WELL_S = 10.0  # a watch that has lived this long was started successfully
_TRIES = 3
_PATIENCE_S = 5.0  # beyond a target's own time to stop


class Leadership:
    """The targets of a group on this host. ``post`` is called in a thread with a target's name and result, for
    ``ended``; with an empty name and the result of writing the pid locks for ``begun``."""

    def __init__(self, config: Config, targets: Sequence[Target], post: Callable[[str, Any], None]) -> None:
        self._config = config
        self._targets = {target.name: target for target in targets}
        self._post = post
        self._watch: subprocess.Popen[bytes] | None = None
        self._watched_at = self._watch_again_at = 0.0
        self._failures = 0
        self._ending: dict[str, float] = {}
        self._overdue_at = 0.0
        self._stop = StopOptions(force=True)
        self._said: dict[str, str] = {}
        self._cannot = ""
        self.acts = False

    @property
    def is_ending(self) -> bool:
        """Whether a target may still be running while it is being stopped."""
        return bool(self._ending)

    @property
    def is_overdue(self) -> bool:
        """Whether stopping takes longer than a target may take."""
        return self.is_ending and clock.monotonic() >= self._overdue_at

    def begin(self) -> None:
        """Write the pid locks and start a watch, which does the rest."""
        self.acts = True
        self._failures, self._watch_again_at, self._cannot = 0, 0.0, ""
        # In a thread: syncing many of them to the disk may take longer than a beat.
        in_background(partial(_intend, self._targets.values()), partial(self._post, ""))
        self.keep_watching()  # the next call finds the reason again if it fails

    def begun(self, result: Any) -> None:
        """Take the result of writing the pid locks: without one nobody would look after that target."""
        if result and self.acts:
            self._cannot = str(result)

    def keep_watching(self) -> str:
        """Start the watch, also if it has ended. Returns the reason if that fails again and again, or if a pid lock
        could not be written.

        The watch ends with this process: else each process that is killed would leave one.
        """
        now = clock.monotonic()
        if self._cannot:
            return self._cannot
        if not self._targets or (self._watch is not None and self._watch.poll() is None):
            return ""
        if self._watch is not None:
            status = self._watch.returncode
            # Another process's watch (75) is just as good.
            is_failure = now - self._watched_at < _WELL_S and status != ExitCode.BUSY
            self._failures = self._failures + 1 if is_failure else 0
            pause_s = delay(self._failures, first_s=_AGAIN_S, cap_s=_WELL_S) if self._failures else _AGAIN_S
            self._watch, self._watch_again_at = None, now + pause_s
            if self._failures >= _TRIES:
                return f"its watch ended {self._failures} times at once, the last time with {how_it_ended(status)}"
        if now >= self._watch_again_at:
            self._watched_at = now
            try:
                self._watch = subprocess.Popen(
                    command(self._config, "watch", "--wait", *self._targets),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    preexec_fn=partial(fence.die_with_parent, signal.SIGTERM, os.getpid()),  # noqa: PLW1509 (a prctl)
                )
            except (OSError, subprocess.SubprocessError) as error:
                why = why_not_started(error) if isinstance(error, OSError) else str(error)
                return f"its watch cannot be started: {why}"
        return ""

    @property
    def is_well(self) -> bool:
        """Whether the watch has run for long enough."""
        return self.acts and clock.monotonic() - self._watched_at >= _WELL_S

    def end(self, stop: StopOptions) -> None:
        """Stop all targets: first end the watch, so that nothing is relaunched, then stop them until they are down."""
        self.acts = False
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait()
            self._watch = None
        self._stop = stop
        every = [target.settings for target in self._targets.values()]
        longest_s = max((options.stop_timeout for options in every), default=0.0)
        drain_s = longest_s if stop.timeout_s is None else stop.timeout_s
        before_s = max((options.pre_stop_timeout for options in every if options.pre_stop is not None), default=0.0)
        self._overdue_at = clock.monotonic() + before_s + drain_s + _PATIENCE_S
        for name in self._targets:
            if name not in self._ending:
                self._yield(name)

    def _yield(self, name: str) -> None:
        self._ending[name] = float("inf")
        job = partial(actions.act, self._targets[name], Command.YIELD, ActionOptions(self._stop, wait_s=_AGAIN_S))
        in_background(job, partial(self._post, name))

    def ended(self, name: str, result: Any) -> str:
        """Take the result of a stop. Returns a text if there is something new to report. A target that could not be
        stopped is tried again by ``end_again``."""
        outcome = result if isinstance(result, ActionResult) else ActionResult(name, ok=False, text=told(result))
        if name not in self._ending:
            return ""
        if outcome.ok and not outcome.busy:
            del self._ending[name]
            self._said.pop(name, None)
            return f"{name}: {outcome.text}" if outcome.event is not None else ""
        self._ending[name] = clock.monotonic() + _AGAIN_S
        if self._said.get(name) == outcome.text:
            return ""
        self._said[name] = outcome.text
        return f"{name} is not down yet: {outcome.text}"

    def end_again(self) -> None:
        now = clock.monotonic()
        for name in [name for name, at in self._ending.items() if at <= now]:
            self._yield(name)

    @property
    def is_running(self) -> bool:
        """Whether anything that is being stopped still lives, as far as the records tell."""
        boot = process_table.boot_id()
        families = [self._targets[name].lock.recorded(boot).family for name in self._ending]
        return any(family is not None and processes.family_of(family) for family in families)

    def abandon(self) -> list[str]:
        """Wait no longer. Returns the names of targets that may still run; their fences end them when the permit
        expires."""
        names = list(self._ending)
        self._ending.clear()
        return names


def _intend(targets: Iterable[Target]) -> str:
    """Write the pid locks, so that a watch looks at the targets. A lock that an operator has removed stays away.
    Returns why one could not be written.

    Crashes under an earlier leadership do not delay this launch, which is a start and no relaunch.
    """
    problems = []
    for target in targets:
        try:
            with target.lock.held(wait_s=_PATIENCE_S):
                record = target.lock.recorded(process_table.boot_id())
                was_stopped = not target.lock.is_there() and target.lock.has_record()
                if not was_stopped and (record.process is None or not processes.is_alive(record.process)):
                    target.lock.record(msgspec.structs.replace(record, starting=True, crashes=Crashes()))
                    target.lock.write(target.lock.read() or os.getpid())
        except (GuardError, OSError) as error:
            if not (isinstance(error, BusyError) and target.lock.is_there()):  # else somebody is starting it
                problems.append(f"{target.name}: {error}")
    return "; ".join(problems)
