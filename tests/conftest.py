"""Fixtures: real servers, made once for each worker and emptied for each test; the command line as a subprocess."""

import atexit
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Generator, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.fake_wecom import FakeWeCom
from tests.support.forkserver import ForkServer, can_fork
from tests.support.servers import MariaDb, MySql, RedisServer, find_newer_program
from tests.support.services import Service

TIERS = ("unit", "process", "server")
_SERVERS = {"redis_server", "database", "_mariadb", "accounts", "replicated"}
_PROCESSES = {"guard", "service", "wecom", "monitor", "cron", "shared", "small_disk", "verify", "certificates"}
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "socket.bind", "socket.connect"}
_unit_test = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's tier is what its fixtures need; what starts something by itself, or is slow, is marked so."""
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            names = set(getattr(item, "fixturenames", ()))
            if names & _SERVERS:
                item.add_marker("server")
            elif names & _PROCESSES:
                item.add_marker("process")
            elif not item.get_closest_marker("slow"):
                item.add_marker("unit")
    items[:] = _slow_ones_spread(items)


def _slow_ones_spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """The slow tests, which mostly wait, at even distances among the others: no worker is left with many at the end,
    and few of them run side by side, where they would disturb each other's times."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    placed = [(number / len(part), item) for part in (slow, others) for number, item in enumerate(part)]
    return [item for _, item in sorted(placed, key=lambda one: one[0])]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    global _unit_test  # noqa: PLW0603 (an audit hook can neither be removed nor be given anything)
    _unit_test = item.nodeid if item.get_closest_marker("unit") else ""
    try:
        return (yield)
    finally:
        _unit_test = ""


def _refuse_starts(event: str, _arguments: tuple[object, ...]) -> None:
    if _unit_test and event in _STARTS:
        raise AssertionError(f"{_unit_test} is a unit test, but uses {event}: give it a fixture or a mark")


sys.addaudithook(_refuse_starts)

SIX_COLUMNS = (
    "CREATE TABLE task_monitor (task_id INT AUTO_INCREMENT PRIMARY KEY, task_description VARCHAR(255), "
    "task_command VARCHAR(255), task_status ENUM('成功','失败'), task_execution_time DATETIME, log_path VARCHAR(255)) "
    "DEFAULT CHARSET=utf8mb4"
)


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server.start()


@pytest.fixture(scope="session")
def _redis_8() -> Iterator[RedisServer]:
    with RedisServer(program=find_newer_program("redis-server")) as server:
        yield server.start()


@pytest.fixture
def redis_server(request: pytest.FixtureRequest) -> RedisServer:
    """A running, empty Redis without a password: this system's, but Redis 8 in a test that runs on MySQL 9, or that has
    a parameter ``redis_version`` of 8."""
    spec = getattr(request.node, "callspec", None)
    is_newest = spec is not None and (spec.params.get("database") == "mysql" or spec.params.get("redis_version") == 8)
    server: RedisServer = request.getfixturevalue("_redis_8" if is_newest else "_redis_server")
    with server.client() as client:
        client.flushall()
    return server


@pytest.fixture(scope="session")
def _mariadb() -> Iterator[MariaDb]:
    with MariaDb() as server:
        yield server.start()


class Database(NamedTuple):
    """A database of the test's own."""

    server: MariaDb
    name: str

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        return self.server.run(*statements, database=self.name)

    def make_six_columns(self) -> "Database":
        """The table that users already have."""
        self.run(SIX_COLUMNS)
        return self

    def make_numbers(self, count: int) -> None:
        """A table ``numbers`` with a column ``seq``: 1 to ``count``."""
        digit = " UNION ALL ".join(f"SELECT {digit} AS d" for digit in range(10))
        places = [f"({digit}) AS t{place}" for place in range(len(str(count)))]
        seq = "1 + " + " + ".join(f"t{place}.d * {10**place}" for place in range(len(places)))
        self.run(
            "CREATE TABLE numbers (seq INT PRIMARY KEY)",
            f"INSERT INTO numbers SELECT {seq} AS seq FROM {', '.join(places)} HAVING seq <= {count}",
        )

    @property
    def is_mysql(self) -> bool:
        """Whether it is on MySQL, not on MariaDB."""
        return isinstance(self.server, MySql)

    def statuses(self) -> list[str]:
        return [row[0] for row in self.run("SELECT task_status FROM task_monitor ORDER BY task_id")]


@pytest.fixture(scope="session")
def _mysql() -> Iterator[MySql]:
    with MySql() as server:
        yield server.start()


@pytest.fixture(params=["mariadb", "mysql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty database: each test runs on MariaDB and on MySQL 9."""
    server: MariaDb = request.getfixturevalue(f"_{request.param}")
    name = f"irm_{uuid.uuid4().hex[:12]}"
    server.run(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield Database(server, name)
    server.run(f"DROP DATABASE {name}")


@pytest.fixture
def wecom() -> Iterator[FakeWeCom]:
    with FakeWeCom() as fake:
        yield fake


@cache
def fork_server() -> ForkServer:
    """One for each worker; it ends with it."""
    server = ForkServer()
    atexit.register(server.close)
    return server


class Done(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Guard:
    """restart-guard as an operator runs it: in a directory with a config.toml, as a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "config.toml"
        self.state = directory / "state"
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8", "TZ": "Asia/Shanghai"}

    def configure(self, text: str) -> "Guard":
        self.config.write_text(f'state_dir = "state"\n{text}', encoding="utf-8")
        self.config.chmod(0o600)
        return self

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "restart_guard", "-c", str(self.config), *arguments]

    def popen(
        self, *arguments: str, environ: Mapping[str, str] | None = None, output: int = subprocess.PIPE
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environ | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            encoding="utf-8",
        )

    def __call__(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Done:
        """Run a command to its end: in a fork of a warm interpreter where that is the same, else by a real start."""
        whole = self.environ | dict(environ or {})
        if can_fork(whole):
            return self._fork(*arguments, environ=whole)
        with self.popen(*arguments, environ=environ) as process:
            try:
                out, err = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Done(process.returncode, out, err)

    def _fork(self, *arguments: str, environ: Mapping[str, str]) -> Done:
        words = ["-c", str(self.config), *arguments]
        code, out, err = fork_server().run(words, cwd=self.directory, environ=environ, seconds=60)
        return Done(code, out.decode(), err.decode())

    def history(self) -> Any:
        return self("history", "--json", "-n", "1000").json


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(tmp_path)


@pytest.fixture
def service(guard: Guard) -> Iterator[Service]:
    """A program to guard; what is left of it is killed."""
    one = Service(guard)
    yield one
    one.end()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 256 KiB, mounted where the state directory is."""
    state = tmp_path / "state"
    state.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", state], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        reason = "mounting a file system needs root"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    yield state
    subprocess.run(["umount", "-l", state], check=True)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, and a server certificate for localhost and 127.0.0.1 that it signed."""
    directory = tmp_path_factory.mktemp("tls")
    extension = directory / "ext"
    extension.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=test-ca",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 30 -extfile ext",
    ):
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
    return directory


def job(redis_server: RedisServer, database: Database | None, wecom: FakeWeCom | None, check: str = "") -> str:
    """The config of the usual job: one string key, no waiting between attempts."""
    text = f'[redis]\nurl = "{redis_server.url}"\n'
    if database is not None:
        text += f'[mysql]\nsocket = "{database.server.socket}"\nuser = "root"\ndatabase = "{database.name}"\n'
        text += 'password = "mysql-password-0001"\n'
    if wecom is not None:
        text += f'[wecom]\nwebhook = "{wecom.webhook}"\nmentioned_mobiles = ["13800001111"]\n'
    return text + f'[checks.metadata]\nkeys = ["your_data_key"]\nretry_delay = "10ms"\n{check}\n'
