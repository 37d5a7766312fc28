"""Jobs that are done side by side: each in a daemon thread, so that one that hangs holds up neither the others nor the
end of the process."""

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

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
