"""A TCP proxy on loopback that can lose an answer: the request is carried out, and nobody hears of it."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self


class Proxy:
    """Forwards to a loopback port or a unix socket. After ``lose_answer_to`` was seen from the client, the server's
    answer is read and dropped and both connections are cut, once. With ``drip_s`` answers come byte by byte, so many
    seconds apart. When the first text of ``on_seen`` has been passed on, its second is called, once; ``is_cut`` lets
    nobody connect any more."""

    def __init__(self, target: int | Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.lose_answer_to: bytes | None = None
        self.lost = 0
        self.drip_s = 0.0
        self.on_seen: tuple[bytes, Callable[[], None]] | None = None
        self.is_cut = False
        self.connected = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connected += 1
                if self.is_cut:
                    client.close()
                    continue
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _connect(self) -> socket.socket:
        if isinstance(self._target, int):
            return socket.create_connection(("127.0.0.1", self._target))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._target))
        return server

    def _forward(self, client: socket.socket, data: bytes) -> None:
        for byte in data if self.drip_s else ():
            client.sendall(bytes([byte]))
            time.sleep(self.drip_s)
        if not self.drip_s:
            client.sendall(data)

    def _serve(self, client: socket.socket) -> None:
        with client, self._connect() as server, contextlib.suppress(OSError):
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
                if self.on_seen is not None and self.on_seen[0] in data:
                    (_, then), self.on_seen = self.on_seen, None
                    then()
            server.shutdown(socket.SHUT_WR)
