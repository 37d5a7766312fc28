"""A TCP proxy on loopback that can lose an answer: the request is carried out, and nobody hears of it."""

import contextlib
import socket
import threading
import time
from typing import Self


class Proxy:
    """Forwards to a port. After ``lose_answer_to`` was seen from the client, the server's answer is read and dropped
    and both connections are cut, once. With ``drip_s`` answers come byte by byte, so many seconds apart."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.lose_answer_to: bytes | None = None
        self.lost = 0
        self.drip_s = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket, data: bytes) -> None:
        for byte in data if self.drip_s else ():
            client.sendall(bytes([byte]))
            time.sleep(self.drip_s)
        if not self.drip_s:
            client.sendall(data)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server, contextlib.suppress(OSError):
            cut = threading.Event()

            def back() -> None:
                with contextlib.suppress(OSError):
                    while data := server.recv(65536):
                        if cut.is_set():
                            self.lost += 1
                            break
                        self._forward(client, data)
                    client.shutdown(socket.SHUT_RDWR)

            threading.Thread(target=back, daemon=True).start()
            while data := client.recv(65536):
                if self.lose_answer_to is not None and self.lose_answer_to in data:
                    self.lose_answer_to = None
                    cut.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
