"""Jobs that are done side by side: each in a daemon thread, so that one that hangs holds up neither the others nor the
end of the process."""

import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Self, TypeVar

_Result = TypeVar("_Result")


def beside(job: Callable[[], _Result], post: Callable[[_Result | BaseException], None]) -> None:
    """Do a job in a thread of its own and hand on its result, or what it raised, for the receiver to raise again."""

    def work() -> None:
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 (raised again where the result is taken)
            post(error)
        else:
            post(result)

    Thread(target=work, daemon=True).start()


_FLUSH_S = 2.0


class BackgroundWriter:
    """``say`` returns at once. At the end what is still to be written has a moment; where nobody reads, the process
    ends without it, since Python itself would wait for ever."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._thread = Thread(target=self._write, args=(say,), daemon=True)

    def say(self, line: str) -> None:
        self._lines.put(line)

    def _write(self, say: Callable[[str], None]) -> None:
        while (line := self._lines.get()) is not None:
            say(line)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *failed: object) -> None:
        self._lines.put(None)
        self._thread.join(_FLUSH_S)
        if self._thread.is_alive() and failed[0] is None:
            os._exit(0)
