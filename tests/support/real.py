"""Real servers as targets: nginx, php-fpm, gunicorn, celery, redis, node, java, in a folder of the test's own."""

import base64
import http.client
import os
import shutil
import signal
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from restart_guard.host import process_table
from restart_guard.host.identity import Facts
from tests.conftest import Guard
from tests.support.servers import free_port, wait_until

# public class App {
#     public static void main(String[] a) throws Exception { System.out.println("ready"); Thread.sleep(600000L); }
# }
_APP_CLASS = (
    "yv66vgAAADQAJQoAAgADBwAEDAAFAAYBABBqYXZhL2xhbmcvT2JqZWN0AQAGPGluaXQ+AQADKClWCQAIAAkHAAoMAAsADAEAEGph"
    "dmEvbGFuZy9TeXN0ZW0BAANvdXQBABVMamF2YS9pby9QcmludFN0cmVhbTsIAA4BAAVyZWFkeQoAEAARBwASDAATABQBABNqYXZh"
    "L2lvL1ByaW50U3RyZWFtAQAHcHJpbnRsbgEAFShMamF2YS9sYW5nL1N0cmluZzspVgUAAAAAAAknwAoAGAAZBwAaDAAbABwBABBq"
    "YXZhL2xhbmcvVGhyZWFkAQAFc2xlZXABAAQoSilWBwAeAQADQXBwAQAEQ29kZQEABG1haW4BABYoW0xqYXZhL2xhbmcvU3RyaW5n"
    "OylWAQAKRXhjZXB0aW9ucwcAJAEAE2phdmEvbGFuZy9FeGNlcHRpb24AIQAdAAIAAAAAAAIAAQAFAAYAAQAfAAAAEQABAAEAAAAF"
    "KrcAAbEAAAAAAAkAIAAhAAIAHwAAABsAAgABAAAAD7IABxINtgAPFAAVuAAXsQAAAAAAIgAAAAQAAQAjAAA="
)


class Real:
    """A target ``app`` whose program stands in the test's folder; all that the test started is told by that folder."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.folder = guard.directory
        self.port = free_port()

    def configure(self, program: str, command: str, options: str = "") -> Guard:
        """A command of several lines is TOML text; one of ``shell = true`` may begin with nohup."""
        text = command.replace("\\", "\\\\").replace('"', '\\"')
        log = "" if "log_file" in options else f'log_file = "{self.folder}/app.log"\n'
        return self.guard.configure(f'[targets.app]\nprogram = "{program}"\ncommand = "{text}"\n{log}{options}\n')

    def copy(self, *binaries: str) -> Path:
        """A binary of the system in the folder, so that its lock is the test's own."""
        binary = next(Path(path) for path in binaries if Path(path).exists())
        return Path(shutil.copy(binary, self.folder / binary.name))

    def nginx(self, workers: int = 2) -> str:
        """Its config file, for root or for whoever runs the tests."""
        config = self.folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            f"{user} worker_processes {workers}; pid {self.folder}/nginx-own.pid; error_log {self.folder}/error.log;\n"
            "events { worker_connections 64; }\n"
            f"http {{ access_log off; client_body_temp_path {self.folder}/b; proxy_temp_path {self.folder}/p;\n"
            f"fastcgi_temp_path {self.folder}/f; uwsgi_temp_path {self.folder}/u; scgi_temp_path {self.folder}/s;\n"
            f"server {{ listen 127.0.0.1:{self.port}; location / {{ return 200 ok; }} }} }}\n"
        )
        self.copy("/usr/sbin/nginx")
        return str(config)

    def gunicorn(self) -> str:
        """The entry program; its processes overwrite their command line and environment (setproctitle)."""
        (self.folder / "app.py").write_text(
            "import os, time\n"
            "def app(environ, start_response):\n"
            "    time.sleep(float(environ.get('QUERY_STRING') or 0))\n"
            "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
            "    return [str(os.getppid()).encode()]\n"
        )
        entry = self.folder / "serve.py"
        entry.write_text("from gunicorn.app.wsgiapp import run\nrun()\n")
        return str(entry)

    def jar(self) -> Path:
        jar = self.folder / "app.jar"
        with zipfile.ZipFile(jar, "w") as archive:
            archive.writestr("META-INF/MANIFEST.MF", "Main-Class: App\n")
            archive.writestr("App.class", base64.b64decode(_APP_CLASS))
        return jar

    def get(self, query: str = "", timeout: float = 20.0) -> str:
        """The answer of its web server; raises OSError or HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", f"/?{query}")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def answers(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return bool(self.get(timeout=2.0))
        return False

    def processes(self) -> list[Facts]:
        """All living processes with the folder in their command line, executable, directory or environment."""
        folder = os.fsencode(self.folder)
        found = []
        for one in process_table.everybody():
            if one.dead or one.pid in (os.getpid(), os.getppid()):
                continue
            with suppress(OSError):
                place = Path(f"/proc/{one.pid}")
                texts = [(place / name).read_bytes() for name in ("cmdline", "environ")]
                texts += [os.fsencode((place / name).readlink()) for name in ("exe", "cwd")]
                if any(folder in text for text in texts) and b"restart_guard\0" not in texts[0]:
                    found.append(one)
        return found

    def status(self) -> Any:
        return self.guard("status", "--json").json[0]

    def pid(self) -> int:
        """The pid that restart-guard has for it, once it has one: while a launcher hands over, it has none."""
        return int(wait_until(lambda: self.status()["pid"], what="a pid"))

    def end(self) -> None:
        for _ in range(5):
            for one in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)


@contextmanager
def real_program(guard: Guard) -> Iterator[Real]:
    one = Real(guard)
    try:
        yield one
    finally:
        one.end()


def children_of(pid: int) -> list[int]:
    return [one.pid for one in process_table.everybody() if one.parent == pid and not one.dead]


def kill(pid: int) -> None:
    """kill -9, and wait for the end: a large process takes a while to die."""
    os.kill(pid, signal.SIGKILL)
    wait_gone([pid])


def wait_gone(pids: list[int]) -> None:
    def gone() -> bool:
        found = [process_table.facts(pid) for pid in pids]
        return all(one is None or one.dead for one in found)

    wait_until(gone, what=f"the end of {pids}")
