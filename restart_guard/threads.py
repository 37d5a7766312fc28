"""Background threads. All are daemons, so that a job that hangs delays no other, and not the end of the process."""

import os
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, Self, TypeVar

from restart_guard import clock
from restart_guard.errors import CrowdedError

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")
_FLUSH_S = 2.0


def start_thread(job: Callable[[], None]) -> Thread:
    """Raises CrowdedError."""
    thread = Thread(target=job, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise CrowdedError from error
    return thread


def in_background(job: Callable[[], _Result], post: Callable[[_Result | BaseException], None]) -> None:
    """Run a job in a thread. ``post`` gets its result, or the exception that it raised, in that thread; or that no
    thread could be started."""

    def work() -> None:
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 (raised again where the result is taken)
            post(error)
        else:
            post(result)

    try:
        start_thread(work)
    except CrowdedError as error:
        post(error)


class Background(Generic[_Result]):
    """A job in a thread; ``result`` waits for its end."""

    def __init__(self, job: Callable[[], _Result]) -> None:
        self._results: SimpleQueue[_Result | BaseException] = SimpleQueue()
        in_background(job, self._results.put)

    def result(self, seconds: float) -> _Result:
        """The job's result, once. Raises what the job raised, or TimeoutError if it takes longer than this."""
        try:
            result = self._results.get(timeout=max(0.0, seconds))
        except Empty:
            raise TimeoutError from None
        if isinstance(result, BaseException):
            raise result
        return result


def within(seconds: float, job: Callable[[], _Result]) -> _Result:
    """Run a job in a thread and wait for its result. After the time it is left behind: raises TimeoutError."""
    return Background(job).result(seconds)


def all_within(seconds: float, jobs: Mapping[str, Callable[[], _Result]]) -> dict[str, _Result]:
    """Run jobs side by side. The results of those that have ended in time; raises the first error of theirs."""
    running = {name: Background(job) for name, job in jobs.items()}
    deadline = clock.monotonic() + seconds
    results: dict[str, _Result] = {}
    errors: list[BaseException] = []
    for name, job in running.items():
        try:
            results[name] = job.result(deadline - clock.monotonic())
        except TimeoutError:
            continue
        except BaseException as error:  # noqa: BLE001 (all are waited for first)
            errors.append(error)
    if errors:
        raise errors[0]
    return results


class BackgroundWriter(Generic[_Item]):
    """Writes lines or results in a thread, for callers that must not wait for a reader: ``say`` returns at once.

    At the end what is still to be written has two seconds. If nobody reads, the process exits without it, since Python
    itself would wait for ever. Raises CrowdedError when it is entered.
    """

    def __init__(self, say: Callable[[_Item], None]) -> None:
        self._items: SimpleQueue[_Item | None] = SimpleQueue()
        self._say = say

    def say(self, item: _Item) -> None:
        self._items.put(item)

    def _write(self) -> None:
        while (item := self._items.get()) is not None:
            self._say(item)

    def __enter__(self) -> Self:
        self._thread = start_thread(self._write)
        return self

    def __exit__(self, *failed: object) -> None:
        self._items.put(None)
        self._thread.join(_FLUSH_S)
        if self._thread.is_alive() and failed[0] is None:
            os._exit(0)
