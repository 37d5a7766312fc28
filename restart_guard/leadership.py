"""What a leader does to the targets of its group: has them run, as an operator would, and has them down again."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from restart_guard import clock, fence, host, process, target
from restart_guard.backoff import Crashes
from restart_guard.beside import beside
from restart_guard.errors import GuardError
from restart_guard.guarded import Guarded, Stop
from restart_guard.jobs import command
from restart_guard.lifecycle import Command
from restart_guard.settings import Config
from restart_guard.target import Done, How

_AGAIN_S = 1.0


class Leadership:
    """The targets of a group on this host. ``post`` takes what has become of one from a thread, for ``ended``."""

    def __init__(self, config: Config, targets: Sequence[Guarded], post: Callable[[str, Any], None]) -> None:
        self._config = config
        self._targets = {one.name: one for one in targets}
        self._post = post
        self._watch: subprocess.Popen[bytes] | None = None
        self._ending: dict[str, float] = {}
        self._stop = Stop(force=True)
        self._said: dict[str, str] = {}
        self.acts = False

    @property
    def is_ending(self) -> bool:
        """Whether something of ours may still run."""
        return bool(self._ending)

    def begin(self) -> None:
        """The pid locks are written, and a watch does the rest."""
        self.acts = True
        # In a thread: bringing many of them to the disk may take longer than a beat.
        beside(partial(_intend, self._targets.values()), partial(self._post, ""))
        self.keep_watching()

    def keep_watching(self) -> None:
        """Start the watch, also when it has ended; it ends with us, or each of us that is killed would leave one."""
        if not self._targets or (self._watch is not None and self._watch.poll() is None):
            return
        self._watch = subprocess.Popen(
            command(self._config, "watch", "--wait", *self._targets),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=partial(fence.die_with_parent, signal.SIGTERM, os.getpid()),  # noqa: PLW1509 (only a prctl)
        )

    def end(self, stop: Stop) -> None:
        """Nothing of ours acts any more: first nobody relaunches, then all end, however often it takes."""
        self.acts = False
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait()
            self._watch = None
        self._stop = stop
        for name in self._targets:
            if name not in self._ending:
                self._yield(name)

    def _yield(self, name: str) -> None:
        self._ending[name] = float("inf")
        job = partial(target.act, self._targets[name], Command.YIELD, How(self._stop, wait_s=_AGAIN_S))
        beside(job, partial(self._post, name))

    def ended(self, name: str, result: Done) -> str:
        """What came of it, in words, if that is news. What could not be ended is tried again by ``end_again``."""
        if result.ok and not result.busy:
            self._ending.pop(name, None)
            self._said.pop(name, None)
            return f"{name}: {result.text}" if result.event is not None else ""
        self._ending[name] = clock.monotonic() + _AGAIN_S
        if self._said.get(name) == result.text:
            return ""
        self._said[name] = result.text
        return f"{name} is not down yet: {result.text}"

    def end_again(self) -> None:
        now = clock.monotonic()
        for name in [name for name, at in self._ending.items() if at <= now]:
            self._yield(name)


def _intend(targets: Iterable[Guarded]) -> None:
    """Write the pid locks, so that a watch looks at them. One that an operator has taken away stays away.

    What happened under another leadership is no reason to wait with the launch, which is a start and no relaunch.
    """
    for one in targets:
        with suppress(GuardError, PermissionError), one.lock.held(wait_s=_AGAIN_S):
            record = one.lock.recorded(host.boot_id())
            was_stopped = not one.lock.is_there() and one.lock.record_path.exists()
            if not was_stopped and (record.who is None or not process.is_alive(record.who)):
                one.lock.record(msgspec.structs.replace(record, starting=True, crashes=Crashes()))
                one.lock.write(one.lock.read() or os.getpid())
