"""Real servers for the tests, each in a directory of its own, on a unix socket or a free loopback port."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import pymysql
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def find_program(name: str) -> str:
    """The program's path; without it the test is skipped with that reason, or fails where CI=true."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found:
        return found
    reason = f"{name} is not installed; sbin/test.sh as root installs it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def find_newer_program(name: str) -> str:
    """The program of a server newer than this system's: MySQL 9, Redis 8 or twemproxy; see sbin/test-servers.sh."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = Path(os.environ.get("RESTART_GUARD_TEST_SERVERS") or cache / "restart-guard/servers")
    if (place / "complete").exists():
        return str(place / "bin" / name)
    reason = f"there is no newer {name} in {place}; sbin/test-servers.sh puts it there on Debian"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def wait_until(condition: Callable[[], Any], *, timeout: float = 20.0, what: str = "a condition") -> Any:
    """Wait for a condition to hold and give its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout} s")
        time.sleep(0.005)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A process with a directory; stopped by its pid, its directory removed."""

    def __init__(self, directory: Path | None = None) -> None:
        # Not pytest's tmp_path: the path of a unix socket is limited to 107 bytes.
        self.directory = directory or Path(tempfile.mkdtemp(prefix="rg-"))
        self.process: subprocess.Popen[bytes] | None = None
        self.before: list[str] = []
        self.environ: dict[str, str] = {}

    def launch(self, *command: str) -> None:
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.before, *command],
                env=os.environ | self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")[-2000:]

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once; also one that is stopped."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class RedisServer(Server):
    def __init__(
        self, *options: str, tls: Path | None = None, address: str = "127.0.0.1", program: str | None = None
    ) -> None:
        super().__init__()
        self.program = program
        self.options = options
        self.address = address
        self.port = free_port()
        self.socket = self.directory / "redis.sock"
        self.tls = tls

    def start(self) -> Self:
        listen = ["--port", str(self.port)]
        if self.tls:
            listen = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            for option, name in (("cert", "server.crt"), ("key", "server.key"), ("ca-cert", "ca.crt")):
                listen += [f"--tls-{option}-file", str(self.tls / name)]
        self.launch(
            self.program or find_program("redis-server"),
            *("--bind", self.address, "--unixsocket", str(self.socket), "--dir", str(self.directory)),
            *("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"),
            *listen,
            *self.options,
        )
        wait_until(self.answers, what=f"redis-server: {self.log()}")
        return self

    def answers(self) -> bool:
        try:
            with self.client() as client:
                client.execute_command("PING")
        except redis.ResponseError:
            return True
        except (redis.AuthenticationError, redis.BusyLoadingError):
            return True
        except redis.RedisError:
            return False
        return True

    def client(self, **options: Any) -> "redis.Redis":
        return redis.Redis(
            unix_socket_path=str(self.socket), protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=5, **options
        )

    @property
    def url(self) -> str:
        return f"redis://{self.address}:{self.port}/0"


class Twemproxy(Server):
    """A twemproxy in front of servers, over which it spreads the keys."""

    def __init__(self, servers: Sequence[RedisServer]) -> None:
        super().__init__()
        self.port = free_port()
        self._stats = free_port()
        listed = "".join(f"   - {server.address}:{server.port}:1\n" for server in servers)
        (self.directory / "nutcracker.yml").write_text(
            f"all:\n  listen: 127.0.0.1:{self.port}\n  redis: true\n  distribution: ketama\n  servers:\n{listed}"
        )

    def start(self) -> Self:
        config = str(self.directory / "nutcracker.yml")
        self.launch(
            find_newer_program("nutcracker"), "-c", config, "-s", str(self._stats), "-o", str(self.directory / "log")
        )
        wait_until(self.answers, what=f"nutcracker in {self.directory}")
        return self

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Sentinel(Server):
    def __init__(self, master: RedisServer, address: str = "127.0.0.1") -> None:
        super().__init__()
        self.port = free_port()
        self.place = f"{address}:{self.port}"
        self.socket = self.directory / "sentinel.sock"
        self._config = self.directory / "sentinel.conf"
        self._config.write_text(
            f"port {self.port}\nbind {address}\nunixsocket {self.socket}\ndir {self.directory}\n"
            f"sentinel monitor mymaster {master.address} {master.port} 2\n"
            "sentinel down-after-milliseconds mymaster 700\nsentinel failover-timeout mymaster 3000\n"
        )

    def start(self) -> Self:
        self.launch(find_program("redis-sentinel"), str(self._config))
        return self

    def ask(self, *command: str) -> Any:
        with redis.Redis(unix_socket_path=str(self.socket), protocol=2, retry=Retry(NoBackoff(), 0)) as client:
            return client.execute_command(*command)


class Sentinels:
    """Three Sentinels that watch one master as ``mymaster``, each at an address, behind words of its own."""

    def __init__(self, master: RedisServer, addresses: Sequence[str] = (), before: Sequence[list[str]] = ()) -> None:
        self.all = [Sentinel(master, address) for address in addresses or ["127.0.0.1"] * 3]
        for one, words in zip(self.all, before or [[]] * 3, strict=True):
            one.before = words
            one.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failed: object) -> None:
        for one in self.all:
            one.__exit__(*failed)

    @property
    def places(self) -> list[str]:
        return [one.place for one in self.all]

    def ask(self, *command: str) -> Any:
        return self.all[0].ask(*command)

    def wait_for_quorum(self, replicas: int = 1) -> None:
        def known() -> bool:
            try:
                return all(
                    len(one.ask("SENTINEL", "SENTINELS", "mymaster")) == 2
                    and len(one.ask("SENTINEL", "REPLICAS", "mymaster")) >= replicas
                    for one in self.all
                )
            except redis.RedisError:
                return False

        # A Sentinel looks for replicas every ten seconds.
        wait_until(known, what="the Sentinels to know each other and the replicas", timeout=40)


class MariaDb(Server):
    """A MariaDB. Without accounts it is up in 0.2 s and everybody is root; with them it has real grants."""

    BASE = (
        "--no-defaults --skip-log-bin --skip-name-resolve --performance-schema=OFF --innodb-flush-method=nosync "
        "--innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size=16M --innodb-log-file-size=4M"
    )

    def __init__(self, *options: str, accounts: bool = False) -> None:
        super().__init__()
        self.options = options
        self.accounts = accounts
        self.port = free_port()
        self.socket = self.directory / "mysql.sock"
        self.data = self.directory / "data"
        self.data.mkdir()

    def start(self) -> Self:
        # mariadbd refuses to run as root unless told to, with any other user it takes the present one.
        user = ["--user=root"] if os.geteuid() == 0 else [f"--user={pwd.getpwuid(os.geteuid()).pw_name}"]
        if self.accounts and not any(self.data.iterdir()):
            made = subprocess.run(
                [
                    *(find_program("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}", "--skip-test-db"),
                    f"--tmpdir={self.directory}",
                    *("--auth-root-authentication-method=normal", "--innodb-log-file-size=4M", *user),
                ],
                check=False,
                capture_output=True,
                encoding="utf-8",
            )
            assert made.returncode == 0, made.stdout + made.stderr
        self.launch(
            find_program("mariadbd"),
            *self.BASE.split(),
            *user,
            f"--datadir={self.data}",
            f"--socket={self.socket}",
            f"--tmpdir={self.directory}",  # a server that starts removes the temporary tables that it finds in it
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            *([] if self.accounts else ["--skip-grant-tables", "--skip-networking=0"]),
            *self.options,
        )
        wait_until(self.answers, what=f"mariadbd in {self.directory}")
        return self

    def answers(self) -> bool:
        # Asked of the socket first: PyMySQL leaves its socket open when a unix socket refuses it.
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.socket)) != 0:
                return False
        try:
            self.connect().close()
        except pymysql.err.MySQLError:
            return False
        return True

    def connect(self, database: str | None = None) -> "pymysql.Connection[Any]":
        return pymysql.connect(
            unix_socket=str(self.socket), user="root", database=database, charset="utf8mb4", autocommit=True
        )

    def run(self, *statements: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run statements; the rows of the last."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()


class MySql(MariaDb):
    """A MySQL 9, made of a copy of an empty data folder: up in a second. Without accounts it has a socket only."""

    def start(self) -> Self:
        program = find_newer_program("mysqld")
        if not any(self.data.iterdir()):
            shutil.copytree(Path(program).parent.parent / "data", self.data, dirs_exist_ok=True)
            (self.data / "auto.cnf").unlink()  # a server's own name, which it makes anew
        self.launch(
            program,
            f"--user={pwd.getpwuid(os.geteuid()).pw_name}",
            f"--datadir={self.data}",
            f"--socket={self.socket}",
            f"--tmpdir={self.directory}",
            f"--port={self.port}",
            *("--bind-address=127.0.0.1", "--mysqlx=OFF", "--skip-log-bin", "--skip-name-resolve"),
            *("--performance-schema=OFF", "--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0"),
            *("--innodb-buffer-pool-size=16M", "--innodb-redo-log-capacity=8M"),
            *([] if self.accounts else ["--skip-grant-tables"]),
            *self.options,
        )
        wait_until(self.answers, what=f"mysqld in {self.directory}")
        return self


def resume(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.send_signal(signal.SIGCONT)
