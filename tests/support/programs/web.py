"""A web program: answers on the port of its argument. After ``/hang`` it answers no more and is deaf to TERM."""

import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

hangs = threading.Event()


class Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/hang":
            hangs.set()
        elif hangs.is_set():
            threading.Event().wait()
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def stop(*_: object) -> None:
    if not hangs.is_set():
        sys.exit(0)


signal.signal(signal.SIGTERM, stop)
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Web)
print("ready", flush=True)
server.serve_forever()
