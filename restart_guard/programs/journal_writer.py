"""Writes events to the journal in a thread, so that a slow disk delays no relaunch."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

from restart_guard import clock
from restart_guard.config.options import Config
from restart_guard.errors import CrowdedError, JournalError
from restart_guard.programs import events, tick
from restart_guard.programs.crashes import KEEPS_DYING
from restart_guard.programs.results import ActionResult
from restart_guard.programs.target import Target
from restart_guard.threads import start_thread

_KEPT = 1000
_GATHER_S = 0.05  # deaths at the same time make one transaction, and the disk does not compete with the relaunches


class JournalWriter:
    """``say`` gets the lines for the operator; it is called from the writer's threads, and so is ``publish``, when
    states have changed and after each round of housekeeping. Raises CrowdedError."""

    def __init__(
        self, config: Config, say: Callable[[ActionResult], None], publish: Callable[[], None] | None = None
    ) -> None:
        self._config = config
        self._say = say
        self._publish = publish
        self._queue: SimpleQueue[ActionResult | None] = SimpleQueue()
        self._house: Thread | None = None
        self._showing: Thread | None = None
        self._thread = start_thread(self._write)

    def put(self, result: ActionResult) -> None:
        self._queue.put(result)

    def keep_house(self, targets: Sequence[Target]) -> None:
        """Heartbeat, incidents, deliveries; not started again while the last round is still running."""
        if self._house is None or not self._house.is_alive():
            try:
                self._house = start_thread(partial(self._keep_house, targets))
            except CrowdedError as error:
                self._say(ActionResult("journal", ok=False, text=str(error)))

    def _show(self) -> None:
        """Write the page in a thread of its own: its file system may hang. A round that still runs is enough."""
        if self._publish is None or (self._showing is not None and self._showing.is_alive()):
            return
        with suppress(CrowdedError):
            self._showing = start_thread(self._publish)

    def finish(self, seconds: float) -> None:
        """Wait until everything is written, or for this time."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _write(self) -> None:
        kept: list[ActionResult] = []
        last = False
        while not last:
            batch = [self._queue.get()]
            clock.sleep(_GATHER_S)
            with suppress(Empty):
                while True:
                    batch.append(self._queue.get_nowait())
            last = None in batch
            kept = [*kept, *(result for result in batch if result is not None)][-_KEPT:]
            try:
                events.record(self._config, kept)
            except JournalError as error:  # tried again with the next event, and at the end
                self._say(ActionResult("journal", ok=False, text=str(error)))
                continue
            alert = any(result.crashes >= KEEPS_DYING for result in kept)
            if kept:
                self._show()
            kept = []
            if alert:
                self.keep_house(())  # delivers it

    def _keep_house(self, targets: Sequence[Target]) -> None:
        try:
            for result in tick.keep_house(self._config, targets, tick.look(targets)):
                self._say(result)
            tick.tell_monitor(self._config)
            self._show()
        except JournalError as error:
            self._say(ActionResult("journal", ok=False, text=str(error)))
