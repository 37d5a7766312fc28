"""WeCom as documented, on loopback: the far end of a wire that no test can reach.

It plays /cgi-bin/webhook/send (document 99110), /cgi-bin/gettoken (91039) and /cgi-bin/message/send (90236) at any path
prefix and judges what it gets: errors come as ``errcode`` in an answer of HTTP 200. ``script`` holds what the next
requests meet instead: an errcode, or the name of a fault.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

TEXT_LIMIT = 2048


class FakeWeCom:
    def __init__(self, *, host: str = "127.0.0.1") -> None:
        self.keys = {"good-webhook-key-0001"}
        self.corp = ("corp-1", "corp-secret-0001", 1000002)
        self.users = {"zhangsan", "lisi"}
        self.script: deque[int | str] = deque()
        self.messages: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.tokens: set[str] = set()
        self.tokens_made = 0
        self.on_request: Callable[[str], None] = lambda _path: None
        self.on_delivered: Callable[[], None] = lambda: None
        self._server = ThreadingHTTPServer((host, 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def webhook(self) -> str:
        return f"{self.base}/cgi-bin/webhook/send?key=good-webhook-key-0001"

    @property
    def texts(self) -> list[str]:
        return [message["text"]["content"] for message in self.messages]

    def _handler(fake) -> type[BaseHTTPRequestHandler]:  # noqa: N805 (self is the request handler's)
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._serve(b"")

            def do_POST(self) -> None:
                self._serve(self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def _serve(self, body: bytes) -> None:
                url = urlsplit(self.path)
                fake.requests.append((self.command, url.path))
                fake.bodies.append(body)
                fake.headers.append(dict(self.headers))
                fake.on_request(url.path)
                fault = fake.script.popleft() if fake.script else 0
                if isinstance(fault, str):
                    self._fault(fault, url.path, body)
                elif fault:
                    self._reply({"errcode": fault, "errmsg": f"scripted, hint: [1], from ip: 1.2.3.4, e={fault}"})
                else:
                    self._reply(fake.judge(url.path, parse_qs(url.query), body))

            def _fault(self, name: str, path: str, body: bytes) -> None:
                query = parse_qs(urlsplit(self.path).query)
                if name == "502":
                    self._raw(b"<html>Bad Gateway</html>", status=502)
                elif name == "html":
                    self._raw(b"<html><body>please log in</body></html>")
                elif name == "empty":
                    self._raw(b"")
                elif name == "redirect":
                    self.send_response(302)
                    self.send_header("Location", f"{fake.base}/stolen{self.path}")
                    self.end_headers()
                elif name == "half":  # processed, and then only a part of the answer arrives
                    fake.judge(path, query, body)
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"errcode":')
                elif name == "drop":
                    self.close_connection = True
                elif name == "drop-after":
                    fake.judge(path, query, body)
                    self.close_connection = True
                elif name == "format":
                    fake.judge(path, query, body)
                    self._reply({"errcode": 0, "errmsg": "ok. Warning: wrong json format. "})
                elif name == "drip":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    for _ in range(60):
                        self.wfile.write(b" ")
                        self.wfile.flush()
                        time.sleep(0.5)
                elif name == "hang":
                    time.sleep(30)
                else:
                    self._raw(name.encode("latin-1"))

            def _reply(self, reply: dict[str, Any]) -> None:
                self._raw(json.dumps(reply, ensure_ascii=False).encode())

            def _raw(self, data: bytes, *, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True  # the client was killed: that is what the test did

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def judge(self, path: str, query: dict[str, list[str]], body: bytes) -> dict[str, Any]:
        if path.endswith("/cgi-bin/gettoken"):
            return self._token(query)
        if path.endswith("/cgi-bin/webhook/send"):
            if query.get("key", [""])[0] not in self.keys:
                return {"errcode": 93000, "errmsg": "invalid webhook url, hint: [17], from ip: 1.2.3.4"}
            return self._take(body, "text.content")
        if path.endswith("/cgi-bin/message/send"):
            if query.get("access_token", [""])[0] not in self.tokens:
                return {"errcode": 40014, "errmsg": "invalid access_token"}
            return self._to_persons(body)
        return {"errcode": 40066, "errmsg": "invalid url"}

    def _token(self, query: dict[str, list[str]]) -> dict[str, Any]:
        corp_id, secret, _agent = self.corp
        if query.get("corpid") != [corp_id]:
            return {"errcode": 40013, "errmsg": "invalid corpid"}
        if query.get("corpsecret") != [secret]:
            return {"errcode": 40001, "errmsg": "invalid credential"}
        self.tokens_made += 1
        token = f"access-token-{self.tokens_made:04}"
        self.tokens.add(token)
        return {"errcode": 0, "errmsg": "ok", "access_token": token, "expires_in": 7200}

    def _to_persons(self, body: bytes) -> dict[str, Any]:
        message = json.loads(body)
        if message.get("agentid") != self.corp[2]:
            return {"errcode": 40056, "errmsg": "invalid agentid"}
        wanted = message["touser"].split("|")
        invalid = [user for user in wanted if user not in self.users]
        if len(invalid) == len(wanted):
            return {"errcode": 81013, "errmsg": "user & party & tag all invalid", "invaliduser": "|".join(invalid)}
        duplicate = message.get("enable_duplicate_check") and any(message == seen for seen in self.messages)
        if not duplicate:
            self._keep(message)
        return {"errcode": 0, "errmsg": "ok", "invaliduser": "|".join(invalid), "msgid": "m1"}

    def _take(self, body: bytes, field: str) -> dict[str, Any]:
        try:
            message = json.loads(body.decode())
            content = message["text"]["content"]
        except (ValueError, KeyError, TypeError):
            return {"errcode": 44004, "errmsg": "Warning: wrong json format. empty content"}
        if len(content.encode()) > TEXT_LIMIT:
            return {"errcode": 40058, "errmsg": f"{field} exceed max length {TEXT_LIMIT}. invalid Request Parameter"}
        self._keep(message)
        return {"errcode": 0, "errmsg": "ok"}

    def _keep(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self.on_delivered()
