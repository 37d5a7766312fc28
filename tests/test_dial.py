"""A name that stands for several addresses."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from restart_guard.dial import dial

pytestmark = pytest.mark.process


@contextmanager
def dead(address: str, port: int) -> Iterator[None]:
    """An address that answers to no connection: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((address, port), backlog=0))
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield


def test_dead_addresses_share_the_time_with_the_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three are silent: the third is reached within the time of the whole."""
    with socket.create_server(("127.0.0.4", 0)) as good:
        port = good.getsockname()[1]
        known = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (2, 3, 4)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: known)
        with dead("127.0.0.2", port), dead("127.0.0.3", port):
            begun = time.monotonic()
            with dial("three.example", port, 3.0) as connection:
                assert connection.getpeername() == ("127.0.0.4", port)
            assert 1.5 < time.monotonic() - begun < 3.0
            known.pop()
            with pytest.raises(TimeoutError):
                dial("two.example", port, 0.5)
