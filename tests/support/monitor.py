"""A monitor as Healthchecks documents it, on loopback: it keeps what it is told; ``status`` is what it answers."""

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self
from urllib.parse import parse_qs, urlsplit


class Ping(NamedTuple):
    path: str
    rid: str
    body: str


class Monitor:
    def __init__(self) -> None:
        self.pings: list[Ping] = []
        self.status = 200
        self.silent = False
        self._ends = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/ping-key-s3cret-0001"

    @property
    def signals(self) -> list[str]:
        """What came, as the part after the key."""
        return [ping.path.removeprefix("/ping-key-s3cret-0001").lstrip("/") for ping in self.pings]

    def _handler(monitor) -> type[BaseHTTPRequestHandler]:  # noqa: N805 (self is the request handler's)
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                url = urlsplit(self.path)
                monitor.pings.append(Ping(url.path, parse_qs(url.query).get("rid", [""])[0], body))
                if monitor.silent:
                    # A byte of a header now and then: each wait is short, and no answer ever comes.
                    with suppress(OSError):
                        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                        while not monitor._ends.wait(1.0):
                            self.wfile.write(b"x")
                    return
                self.send_response(monitor.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler
