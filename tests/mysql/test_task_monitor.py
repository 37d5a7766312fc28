"""task_monitor on a real MariaDB: it fits into the table that is there, and a row arrives exactly once."""

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import certifi
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from restart_guard.config.options import MySql
from restart_guard.config.secrets import Secret
from restart_guard.durations import Duration
from restart_guard.errors import DeliveryError
from restart_guard.mysql import task_monitor
from restart_guard.mysql.table import Row
from restart_guard.mysql.task_monitor import TaskMonitor
from tests.conftest import Database
from tests.support import servers
from tests.support.proxy import Proxy
from tests.support.servers import MariaDb, free_port, resume, wait_until

ROW = Row(
    run_id="1a2b3c4d-0000-4000-8000-000000000001",
    ok=True,
    task_description="Redis 数据检查 metadata",
    task_command="restart-guard check-redis metadata",
    task_execution_time="2026-11-23 02:00:15",
    log_path="/var/log/get_redis_data.log",
    attempts=3,
    duration=15.2,
    host="web-01",
    detail="3 次重启尝试均失败",
)


def where(database: Database, **options: Any) -> MySql:
    usual: dict[str, Any] = {"socket": database.server.socket, "user": "root", "database": database.name}
    return MySql(**usual | options)


def insert(settings: MySql, *rows: Row) -> str:
    monitor = TaskMonitor.connect(settings)
    try:
        for row in rows:
            monitor.insert(row)
        return monitor.mode
    finally:
        monitor.close()


def refused(settings: MySql, row: Row = ROW) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        insert(settings, row)
    return caught.value


def test_the_six_column_table_works_untouched(database: Database) -> None:
    """Its labels are found out, a resend changes nothing, and its definition stays as it was."""
    database.make_six_columns()
    before = database.run("SHOW CREATE TABLE task_monitor")
    assert insert(where(database), ROW, ROW) == "sidecar"
    insert(where(database), ROW, ROW._replace(run_id="another", ok=False))
    assert database.run("SELECT * FROM task_monitor") == [
        (1, *ROW[2:4], "成功", *database.run("SELECT TIMESTAMP'2026-11-23 02:00:15'")[0], ROW.log_path),
        (2, *ROW[2:4], "失败", *database.run("SELECT TIMESTAMP'2026-11-23 02:00:15'")[0], ROW.log_path),
    ]
    after = database.run("SHOW CREATE TABLE task_monitor")
    assert before[0][1] == after[0][1].replace("AUTO_INCREMENT=3 ", "")


def test_init_db_makes_the_full_table_once(database: Database) -> None:
    """A second init-db changes nothing, and a row sent twice arrives once."""
    assert task_monitor.create(where(database)) == (False, "unique", ())
    assert task_monitor.create(where(database)) == (True, "unique", ())
    assert insert(where(database), ROW, ROW) == "unique"
    found = database.run("SELECT run_id, task_status, attempts, duration, host, detail FROM task_monitor")
    assert [(*row[:3], float(row[3]), *row[4:]) for row in found] == [
        (ROW.run_id, "成功", 3, 15.2, "web-01", "3 次重启尝试均失败")
    ]


def test_init_db_beside_the_six_column_table_makes_the_sidecar(database: Database) -> None:
    """The user's table is not altered, and the missing columns are named."""
    database.make_six_columns()
    created = task_monitor.create(where(database))
    assert created == (True, "sidecar", ("run_id", "attempts", "duration", "host", "detail", "fencing_token"))
    assert ("restart_guard_applied",) in database.run("SHOW TABLES")


@pytest.mark.parametrize("table", ["six", "full", "myisam", "plain run_id"])
@pytest.mark.parametrize("lost", [b"INSERT INTO `task_monitor`", b"COMMIT"])
def test_an_answer_that_is_lost_does_not_double_the_row(database: Database, table: str, lost: bytes) -> None:
    """The connection dies between the statement and its answer: whether it was carried out is unknown."""
    match table:
        case "six":
            database.make_six_columns()
        case "full":
            task_monitor.create(where(database))
        case "myisam":
            database.make_six_columns().run("ALTER TABLE task_monitor ENGINE=MyISAM")
        case "plain run_id":
            database.make_six_columns().run("ALTER TABLE task_monitor ADD run_id VARCHAR(64), ENGINE=MyISAM")
    with Proxy(database.server.socket) as proxy:
        settings = where(database, socket=None, host="127.0.0.1", port=proxy.port, tls="off")
        proxy.lose_answer_to = lost
        error = refused(settings)
        assert (error.code, error.permanent) == ("2013", False)
        assert proxy.lost == 1
        insert(settings, ROW)
        insert(settings, ROW)
    assert database.statuses() == ["成功"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("ENUM('成功','失败')", ("成功", "失败")),
        ("ENUM('失败','成功')", ("成功", "失败")),
        ("ENUM('FAILURE','SUCCESS')", ("SUCCESS", "FAILURE")),
        ("ENUM('ok','it''s an error','fail')", ("ok", "fail")),
        ("VARCHAR(10)", ("success", "failure")),
        ("TINYINT", (1, 0)),
    ],
)
def test_the_labels_follow_the_column(database: Database, column: str, expected: tuple[object, object]) -> None:
    """Success and failure get the labels of the column's own type."""
    database.run(
        "CREATE TABLE task_monitor (id INT AUTO_INCREMENT PRIMARY KEY, task_description VARCHAR(255), "
        f"task_status {column}) DEFAULT CHARSET=utf8mb4"
    )
    insert(where(database), ROW, ROW._replace(run_id="2", ok=False))
    assert tuple(row[0] for row in database.run("SELECT task_status FROM task_monitor ORDER BY id")) == expected


def test_text_columns_count_bytes(database: Database) -> None:
    """A TINYTEXT holds 255 bytes, not characters: what is longer is cut where a character ends."""
    database.make_six_columns().run("ALTER TABLE task_monitor MODIFY task_description TINYTEXT, ADD detail TINYTEXT")
    insert(where(database), ROW._replace(task_description="检" * 100, detail="中" * 85))
    assert database.run("SELECT task_description, detail FROM task_monitor") == [("检" * 84 + "…", "中" * 85)]


def test_labels_and_columns_can_be_configured(database: Database) -> None:
    """Other table, column and label names work, and wrong ones are refused."""
    database.run(
        "CREATE TABLE jobs (job VARCHAR(20), state ENUM('好','坏') NOT NULL, started DATETIME) CHARSET=utf8mb4"
    )
    columns = {"task_description": "job", "task_status": "state", "task_execution_time": "started"}
    settings = where(database, table="jobs", columns=columns, status_values={"success": "好", "failure": "坏"})
    insert(settings, ROW)
    assert database.run("SELECT job, state FROM jobs") == [("Redis 数据检查 metadata", "好")]
    unknown = refused(where(database, table="jobs", columns=columns))
    assert unknown.permanent
    assert "has only the labels" not in str(unknown)
    assert "say in [mysql] status_values which is which" in str(unknown)


def test_values_are_made_to_fit(database: Database) -> None:
    """Too long is cut with a mark, what the character set lacks is replaced; strict mode refuses neither."""
    database.run(
        "CREATE TABLE task_monitor (task_description VARCHAR(12) CHARACTER SET utf8mb4, task_command VARCHAR(9) "
        "CHARACTER SET latin1, task_status ENUM('成功','失败') CHARACTER SET utf8mb4, "
        "detail VARCHAR(50) CHARACTER SET utf8mb3)"
    )
    insert(where(database), ROW._replace(task_command="检查 long command", detail="键 😀 x"))
    assert database.run("SELECT task_description, task_command, detail FROM task_monitor") == [
        ("Redis 数据检查 …", "?? lon...", "键 ? x")
    ]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "does not exist"),
        ("CREATE TABLE task_monitor (a INT)", "has no column task_status"),
        (
            (
                "CREATE TABLE task_monitor (task_status ENUM('成功','失败'), task_description TEXT, "
                "owner INT NOT NULL) CHARSET=utf8mb4"
            ),
            "requires a value for owner",
        ),
    ],
)
def test_a_table_that_no_row_fits_into_is_told(database: Database, table: str, words: str) -> None:
    """The error is permanent and says what to change."""
    if table:
        database.run(table)
    error = refused(where(database))
    assert error.permanent
    assert words in str(error)


@pytest.fixture(scope="module", params=["mariadb", "mysql"])
def accounts(request: pytest.FixtureRequest) -> Iterator[MariaDb]:
    """A server with real accounts and without TLS."""
    made = MariaDb(accounts=True) if request.param == "mariadb" else servers.MySql("--tls-version=", accounts=True)
    with made as server:
        server.start().run(
            "CREATE DATABASE irm CHARACTER SET utf8mb4",
            "CREATE TABLE irm.task_monitor (task_id INT AUTO_INCREMENT PRIMARY KEY, task_description VARCHAR(30), "
            "task_status ENUM('成功','失败')) CHARSET=utf8mb4",
            "CREATE USER writer IDENTIFIED BY '密码 pw'",
            "GRANT SELECT, INSERT ON irm.task_monitor TO writer",
        )
        yield server


def test_without_the_right_to_make_a_sidecar_rows_carry_a_mark(accounts: MariaDb) -> None:
    """A resend then finds the row by its mark, also in a column that is too narrow for the description."""
    settings = MySql(
        host="127.0.0.1", port=accounts.port, user="writer", password=Secret(key="p", text="密码 pw"), database="irm"
    )
    assert insert(settings, ROW, ROW) == "look"
    assert insert(settings, ROW, ROW._replace(run_id="2b-other", task_description="x" * 300)) == "look"
    found = accounts.run("SELECT task_description FROM irm.task_monitor")
    assert found == [("Redis 数据检查 meta #1a2b3c4d-0000",), ("x" * 20 + " #2b-other",)]


def test_a_second_connection_waits_for_the_first_one_of_the_same_row(accounts: MariaDb) -> None:
    """An insert that the server is still busy with is not repeated beside it."""
    settings = MySql(
        host="127.0.0.1", port=accounts.port, user="writer", password=Secret(key="p", text="密码 pw"), database="irm"
    )
    holder = accounts.connect("irm")
    with holder.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK('restart_guard:held', 0)")
        error = refused(settings, ROW._replace(run_id="held"))
    holder.close()
    assert (error.code, error.permanent) == ("locked", False)


@pytest.mark.parametrize(
    ("options", "code", "permanent"),
    [
        ({"password": Secret(key="p", text="wrong")}, "1045", True),
        ({"user": "nobody"}, "1045", True),
        ({"database": "other"}, "1044", True),
        ({"password": Secret(key="mysql.password", env="RG_NOT_SET")}, "secret", True),
        ({"tls": "required"}, "2026", True),
    ],
)
def test_what_a_person_has_to_mend_is_permanent(
    accounts: MariaDb, options: dict[str, Any], code: str, permanent: bool
) -> None:
    """Wrong login, database, host or grant have the right class, and no error shows the password."""
    usual: dict[str, Any] = {"host": "127.0.0.1", "port": accounts.port, "user": "writer", "database": "irm"}
    error = refused(MySql(**usual | {"password": Secret(key="p", text="密码 pw")} | options))
    assert (error.code, error.permanent, error.whole_destination) == (code, permanent, True)
    assert "密码 pw" not in str(error)


TRIGGER = """CREATE TRIGGER t BEFORE INSERT ON task_monitor FOR EACH ROW
IF NEW.run_id = 'bad' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF"""


@pytest.mark.parametrize(
    ("spoilt", "code"),
    [
        (TRIGGER, "1644"),
        ("ALTER TABLE task_monitor ADD CONSTRAINT c CHECK (run_id <> 'bad')", "4025"),
        ("ALTER TABLE task_monitor MODIFY task_execution_time TIMESTAMP NULL", "1292"),
        ("ALTER TABLE task_monitor PARTITION BY LIST (attempts) (PARTITION p VALUES IN (1))", "1526"),
    ],
    ids=["trigger", "check", "time that does not exist", "partition"],
)
def test_a_row_that_the_server_refuses_is_its_own_trouble(database: Database, spoilt: str, code: str) -> None:
    """It waits for a person, and the next row passes."""
    settings = where(database)
    task_monitor.create(settings)
    if code == "1526":  # a partitioned table has no unique key without the column that it is parted by
        database.run("ALTER TABLE task_monitor MODIFY task_id INT NOT NULL DEFAULT 0, DROP PRIMARY KEY")
        keys = "SELECT DISTINCT index_name FROM information_schema.statistics WHERE table_schema = DATABASE()"
        for (key,) in database.run(keys):
            database.run(f"ALTER TABLE task_monitor DROP KEY `{key}`")
    database.run(spoilt)
    bad = ROW._replace(run_id="bad")
    if code == "1292":
        bad = bad._replace(task_execution_time="2026-02-30 02:30:00")
    elif code == "1526":
        bad = bad._replace(attempts=9)
    error = refused(settings, bad)
    code = {"4025": "3819"}.get(code, code) if database.is_mysql else code
    assert (error.code, error.permanent, error.whole_destination) == (code, True, False)
    insert(settings, ROW._replace(run_id="good", attempts=1))


@pytest.mark.parametrize(
    ("change", "back", "told"),
    [
        ("PASSWORD EXPIRE", "IDENTIFIED BY '密码 pw'", "has expired"),
        ("ACCOUNT LOCK", "ACCOUNT UNLOCK", "is locked"),
    ],
)
def test_what_is_wrong_with_the_account_is_for_a_person(accounts: MariaDb, change: str, back: str, told: str) -> None:
    """It is told with what to do, and not tried again for ever."""
    settings = MySql(
        host="127.0.0.1", port=accounts.port, user="writer", password=Secret(key="p", text="密码 pw"), database="irm"
    )
    accounts.run(f"ALTER USER writer {change}")
    try:
        error = refused(settings)
    finally:
        accounts.run(f"ALTER USER writer {back}")
    assert (error.permanent, error.whole_destination, told in str(error)) == (True, True, True), error


def test_a_read_only_server_may_change(accounts: MariaDb) -> None:
    """A replica during a failover: tried again, not given up."""
    settings = MySql(
        host="127.0.0.1", port=accounts.port, user="writer", password=Secret(key="p", text="密码 pw"), database="irm"
    )
    accounts.run("SET GLOBAL read_only = 1")
    try:
        error = refused(settings, ROW._replace(run_id="ro"))
    finally:
        accounts.run("SET GLOBAL read_only = 0")
    assert (error.code, error.permanent) == ("1290", False)


@pytest.mark.server
@pytest.mark.parametrize("kind", [MariaDb, servers.MySql])
def test_tls_with_a_private_ca(tmp_path: Path, kind: type[MariaDb]) -> None:
    """The right CA and name are accepted; a wrong CA, and where it counts a wrong name, are refused."""
    (tmp_path / "ext").write_text("subjectAltName=DNS:localhost\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=test-ca",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 30 -extfile ext",
    ):
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    options = [f"--ssl-{name}={tmp_path / path}" for name, path in (("cert", "server.crt"), ("key", "server.key"))]
    with kind(*options, "--require-secure-transport=1", accounts=True) as server:
        server.start().run("CREATE DATABASE irm CHARACTER SET utf8mb4", "CREATE USER u", "GRANT ALL ON irm.* TO u")
        Database(server, "irm").make_six_columns()
        usual: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "user": "u", "database": "irm"}
        ca: dict[str, Any] = {"ca_file": tmp_path / "ca.crt"}
        good: list[dict[str, Any]] = [
            {"tls": "preferred"}, {"tls": "required"}, {"tls": "required", **ca}, {"tls": "verify-ca", **ca},
            {"tls": "verify", "host": "localhost", **ca},
        ]  # fmt: skip
        for number, more in enumerate(good):
            insert(MySql(**usual | more), ROW._replace(run_id=str(number)))
        wrong: dict[str, Any] = {"ca_file": certifi.where()}
        for more in ({"tls": "verify"}, {"tls": "verify", **ca}, *({"tls": tls, **wrong} for tls in CHECKING)):
            assert refused(MySql(**usual | more)).permanent, more


CHECKING = ("required", "verify-ca", "verify")


def test_a_server_that_is_not_there_hangs_or_is_another_is_told_in_time(database: Database) -> None:
    """Each wait is bounded: connect, handshake and answer."""
    begun = time.monotonic()
    down = refused(where(database, socket=None, host="127.0.0.1", port=free_port()))
    assert (down.code, down.permanent) == ("2003", False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        hung = refused(where(database, socket=None, host="127.0.0.1", port=port, timeout=Duration(0.3)))
    assert (hung.code, hung.permanent) == ("2013", False)
    database.make_six_columns()
    database.server.signal(signal.SIGSTOP)
    try:
        stopped = refused(where(database, timeout=Duration(0.3)))
    finally:
        resume(database.server.process)
    assert not stopped.permanent
    assert time.monotonic() - begun < 30


@pytest.mark.server
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00", b"\x0a\x00\x00\x00\x0a5.5\x00", b"x" * 500]
)
def test_a_server_of_another_protocol_is_told(answer: bytes) -> None:
    """Whatever a server that is no MySQL answers, the error is a sentence."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        settings = MySql(
            host="127.0.0.1", port=listener.getsockname()[1], user="u", database="d", timeout=Duration(0.5)
        )
        assert not refused(settings).permanent


def greeting(plugin: str) -> bytes:
    """Of a MySQL server without TLS, protocol 10 (Protocol::HandshakeV10)."""
    flags = 0x0008_0000 | 0x8000 | 0x0200 | 0x0008  # PLUGIN_AUTH, SECURE_CONNECTION, PROTOCOL_41, CONNECT_WITH_DB
    body = b"\x0a8.0.0\0" + (1).to_bytes(4, "little") + b"12345678\0" + (flags & 0xFFFF).to_bytes(2, "little")
    body += b"\x2d\x02\x00" + (flags >> 16).to_bytes(2, "little") + b"\x15" + bytes(10) + b"123456789012\0"
    return packet(0, body + plugin.encode() + b"\0")


def packet(number: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([number]) + body


@contextmanager
def rogue(answer: Callable[[socket.socket], None]) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers as it likes; its port, and all that it was told."""
    told: list[bytes] = []
    with socket.create_server(("", 0)) as listener:

        def serve() -> None:
            with suppress(OSError, AssertionError):  # the client has left: nothing more will come
                client, _ = listener.accept()
                with client:
                    threading.Thread(target=hear, args=(client,), daemon=True).start()
                    answer(client)

        def hear(client: socket.socket) -> None:
            with suppress(OSError):
                while part := client.recv(65536):
                    told.append(part)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1], told


SWITCHES = {
    "clear": b"\xfemysql_clear_password\0",
    "dialog": b"\xfedialog\0\x02Password: ",
    "rsa": b"\xfecaching_sha2_password\x0012345678901234567890\0",
    "sha256": b"\xfesha256_password\x0012345678901234567890\0",
}


@pytest.mark.server
@pytest.mark.parametrize("what", SWITCHES)
def test_a_rogue_server_does_not_get_the_password(what: str) -> None:
    """One that asks for it in plain text, or encrypted with a key of its own; with the default tls."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    asked = threading.Event()

    def answer(client: socket.socket) -> None:
        client.sendall(greeting("mysql_native_password"))
        wait_until(lambda: told, what="its answer")
        client.sendall(packet(2, SWITCHES[what]))
        if what == "rsa":
            wait_until(lambda: len(told) > 1, what="the quick proof")
            client.sendall(packet(4, b"\x01\x04"))
        asked.wait(2)
        client.sendall(packet(6 if what == "rsa" else 4, b"\x01" + public))
        asked.wait(1)

    with rogue(answer) as (port, told):
        password = Secret(key="mysql.password", text="the-password")
        # Not by the name of loopback: as if it stood elsewhere.
        error = refused(
            MySql(host="127.0.0.2", port=port, user="u", database="d", timeout=Duration(2), password=password)
        )
        asked.set()
    said = b"".join(told)
    assert b"the-password" not in said
    assert len(said) < 256, "an RSA block is that long"
    assert "it was not sent" in str(error)
    assert error.permanent


@pytest.mark.server
@pytest.mark.parametrize("what", ["drips", "endless"])
def test_a_server_whose_answer_has_no_end_is_told(what: str) -> None:
    """Byte by byte, or by the megabyte: a sentence, in time, and without filling the memory."""

    def answer(client: socket.socket) -> None:
        if what == "drips":
            for byte in greeting("mysql_native_password") * 10:
                client.sendall(bytes([byte]))
                time.sleep(0.2)
        for number in count():
            client.sendall(b"\xff\xff\xff" + bytes([number % 256]) + b"x" * 0xFFFFFF)

    with rogue(answer) as (port, _):
        begun = time.monotonic()
        error = refused(MySql(host="127.0.0.1", port=port, user="u", database="d", timeout=Duration(2)))
        assert time.monotonic() - begun < 15
    assert not error.permanent


@pytest.mark.server
def test_a_rogue_server_gets_no_file() -> None:
    """LOAD DATA LOCAL: a server may ask for any file in answer to any query."""
    ok = b"\x00\x00\x00\x02\x00\x00\x00"

    def answer(client: socket.socket) -> None:
        client.sendall(greeting("mysql_native_password"))
        wait_until(lambda: told, what="its answer")
        client.sendall(packet(2, ok))
        for number in range(1, 20):
            before = len(told)
            wait_until(lambda: len(told) > before, what="a command", timeout=5)  # noqa: B023
            client.sendall(packet(1, ok if number == 1 else b"\xfb/etc/passwd"))

    with rogue(answer) as (port, told):
        error = refused(MySql(host="127.0.0.1", port=port, user="u", database="d", timeout=Duration(1)))
    assert b"root:" not in b"".join(told)
    assert str(error)
