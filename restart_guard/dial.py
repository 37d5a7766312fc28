"""TCP connections by name. A name may stand for several addresses, of which some are dead, and a name server may be
silent."""

import re
import socket
from typing import Any

from restart_guard import clock
from restart_guard.threads import Background

_ADDRESS = re.compile(r"[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.%a-z]*")
_NAME_SHARE = 0.5  # of the time for the whole, if the last good answer can stand in

_asked: dict[tuple[str, int], "Background[list[Any]]"] = {}
_known: dict[tuple[str, int], list[Any]] = {}


def dial(host: str, port: int, seconds: float) -> socket.socket:
    """A connection to the first address of a host that accepts one. All of them together have so many seconds, and each
    a fair share of what is left, so that a dead one does not use up the time of those behind it. Raises OSError, that
    of the last address."""
    deadline = clock.monotonic() + seconds
    addresses = _addresses(host, port, seconds)
    failed: OSError = OSError("the name has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(max(0.001, (deadline - clock.monotonic()) / (len(addresses) - number)))
            connection.connect(address)
        except OSError as error:
            connection.close()
            failed = error
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return connection
    raise failed


def _addresses(host: str, port: int, seconds: float) -> list[Any]:
    """What the name server says, or said last if it does not answer in time. Raises OSError."""
    if _ADDRESS.fullmatch(host):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    place = (host, port)
    # A question may hang for longer than we wait: the next call waits for the same answer.
    asked = _asked.pop(place, None) or Background(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    try:
        _known[place] = asked.result(seconds * _NAME_SHARE if place in _known else seconds)
    except TimeoutError as error:
        _asked[place] = asked
        if place not in _known:
            text = f"the name was not resolved within {seconds:.1f} s: does the name server answer?"
            raise socket.gaierror(socket.EAI_AGAIN, text) from error
    except OSError:
        if place not in _known:
            raise
    return _known[place]
