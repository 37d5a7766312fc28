"""TCP connections by name. A name may stand for several addresses, of which some are dead."""

import socket

from restart_guard import clock


def dial(host: str, port: int, seconds: float) -> socket.socket:
    """A connection to the first address of a host that accepts one. All of them together have so many seconds, and each
    a fair share of what is left, so that a dead one does not use up the time of those behind it. Raises OSError, that
    of the last address."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    deadline = clock.monotonic() + seconds
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
