"""Where pidfds cannot be had: old kernels, filters of system calls, a Python built on old headers."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Guard, job
from tests.support.servers import RedisServer, wait_until
from tests.support.services import PROGRAMS, Service

_OLD_PYTHON = """\
import os, signal
del os.pidfd_open, signal.pidfd_send_signal
"""


HANDLES_HUP = """\
import signal, time
signal.signal(signal.SIGHUP, lambda *_: None)
print("ready", flush=True)
while True: time.sleep(60)
"""


class Limited:
    """restart-guard without pidfds, in one of the ways."""

    def __init__(self, guard: Guard, way: str, folder: Path) -> None:
        self.guard = guard
        self.prefix: list[str] = []
        self.environ = dict(guard.environ)
        if way == "old Python":
            (folder / "sitecustomize.py").write_text(_OLD_PYTHON)
            self.environ["PYTHONPATH"] = str(folder)
        else:
            binary = folder / "no_pidfds"
            subprocess.run(["gcc", "-o", binary, PROGRAMS / "no_pidfds.c"], check=True)
            self.prefix = [str(binary), str(getattr(errno, way))]

    def command(self, *words: str) -> list[str]:
        return [*self.prefix, *self.guard.command(*words)]

    def __call__(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*words),
            cwd=self.guard.directory,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(params=["ENOSYS", "EPERM", "old Python"])
def limited(request: pytest.FixtureRequest, guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Limited:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    return Limited(guard, request.param, tmp_path_factory.mktemp("limited"))


def test_the_life_of_a_program(limited: Limited, service: Service) -> None:
    """start, tick, kill, cold and hot restart, stop: as with pidfds; the doctor says which way is in use."""
    service.write(HANDLES_HUP).configure("", 'restart_backoff = { base = "1ms", max = "1ms" }\n')
    assert limited("start").returncode == 0
    service.ready()
    (pid,) = service.pids()
    assert limited("restart").stdout == ""
    assert limited("kill").returncode == 0
    assert service.pids() == []
    assert "relaunched" in limited("restart").stdout
    (again,) = service.pids()
    assert again != pid
    assert limited("restart", "--cold").returncode == 0
    (cold,) = service.pids()
    assert cold != again
    wait_until(lambda: limited("restart", "--hot").returncode == 0, what="a program that handles SIGHUP")
    assert service.pids() == [cold]
    told = "the ends of programs are looked for 50 times a second" in limited("doctor").stdout
    assert told is bool(limited.prefix)
    assert limited("stop").returncode == 0
    assert service.pids() == []
    assert not service.lock.exists()


def test_a_watch_relaunches(limited: Limited, service: Service) -> None:
    """Again and again, and it leaves at once when it is asked to."""
    service.configure("", 'restart_backoff = { base = "1ms", max = "1ms" }\n')
    limited("start")
    with subprocess.Popen(
        limited.command("watch"), cwd=service.guard.directory, env=limited.environ, stdout=subprocess.DEVNULL
    ) as watch:
        for _ in range(3):
            service.wait_for_another(service.kill())
        watch.send_signal(signal.SIGTERM)
        assert watch.wait(10) == 0
    assert len(service.pids()) == 1


def test_a_check_restarts_the_program(limited: Limited, service: Service, redis_server: RedisServer) -> None:
    """recover = "restart:web"."""
    fills = f"import redis, time\nredis.Redis(port={redis_server.port}).set('your_data_key', '[1]')\ntime.sleep(600)\n"
    service.write(fills)
    limited.guard.configure(service.section(min_uptime="2s") + job(redis_server, None, None, 'recover = "restart:web"'))
    done = limited("check-redis", "--json")
    assert json.loads(done.stdout)[0]["status"] == "success", done
    assert len(service.pids()) == 1


@pytest.mark.slow
def test_the_demo(limited: Limited) -> None:
    """The whole loop."""
    done = subprocess.run(
        [*limited.prefix, sys.executable, "-m", "restart_guard", "demo"],
        env=limited.environ | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
