"""For the demo only: SQLite behind MySQL's protocol, since no MySQL can be embedded. A unix socket, the text protocol
(https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html), any password, one database.

Statements about the session and transactions are accepted without effect; SQLite runs all others as they are.
"""

import socketserver
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DATABASE = "irmdata"
_COLUMNS = {
    "task_description": ("varchar", "varchar(255)", 255),
    "task_command": ("varchar", "varchar(255)", 255),
    "task_status": ("enum", "enum('成功','失败')", 2),
    "task_execution_time": ("datetime", "datetime", None),
    "log_path": ("varchar", "varchar(255)", 255),
    "run_id": ("char", "char(36)", 36),
}
_QUIT, _QUERY = 1, 3
_LONGLONG, _VAR_STRING = 8, 253
_OK = b"\0\0\0\2\0\0\0"
_EOF = b"\xfe\0\0\2\0"
# Long passwords, a database at the login, transactions, protocol 4.1, secure login, login plugins.
_ABILITIES = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x80000


@contextmanager
def played(socket: Path) -> Iterator[sqlite3.Connection]:
    """A server on a unix socket; its database, with an empty table task_monitor."""
    database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    _describe(database)
    lock = threading.Lock()

    class Client(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._send(0, _greeting())
            self._read()
            self._send(2, _OK)
            while (packet := self._read()) and packet[0] != _QUIT:
                with lock:
                    answer = _answer(database, packet[1:].decode()) if packet[0] == _QUERY else [_OK]
                for number, payload in enumerate(answer, 1):
                    self._send(number, payload)

        def _read(self) -> bytes:
            head = self.rfile.read(4)
            return self.rfile.read(int.from_bytes(head[:3], "little")) if len(head) == 4 else b""

        def _send(self, number: int, payload: bytes) -> None:
            self.wfile.write(len(payload).to_bytes(3, "little") + bytes([number % 256]) + payload)

    with socketserver.ThreadingUnixStreamServer(str(socket), Client) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield database
        server.shutdown()


def _describe(database: sqlite3.Connection) -> None:
    """Create the table and the part of information_schema that describes it."""
    database.execute(f"CREATE TABLE task_monitor ({', '.join(_COLUMNS)}, UNIQUE (run_id))")
    database.execute("ATTACH ':memory:' AS information_schema")
    for table, columns in {
        "COLUMNS": "TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_MAXIMUM_LENGTH, "
        "CHARACTER_SET_NAME, IS_NULLABLE, COLUMN_DEFAULT, EXTRA",
        "TABLES": "TABLE_SCHEMA, TABLE_NAME, ENGINE",
        "ENGINES": "ENGINE, TRANSACTIONS",
        "STATISTICS": "TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, INDEX_NAME, NON_UNIQUE",
    }.items():
        database.execute(f"CREATE TABLE information_schema.{table} ({columns})")
    place = (DATABASE, "task_monitor")
    for name, (kind, full_kind, length) in _COLUMNS.items():
        row = (*place, name, kind, full_kind, length, "utf8mb4", "YES", None, "")
        database.execute("INSERT INTO information_schema.COLUMNS VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    database.execute("INSERT INTO information_schema.TABLES VALUES (?, ?, 'InnoDB')", place)
    database.execute("INSERT INTO information_schema.ENGINES VALUES ('InnoDB', 'YES')")
    database.execute("INSERT INTO information_schema.STATISTICS VALUES (?, ?, 'run_id', 'run_id', 0)", place)


def _greeting() -> bytes:
    low, high = _ABILITIES & 0xFFFF, _ABILITIES >> 16
    return (
        b"\x0a8.0.0-played-by-SQLite\0\1\0\0\0" + b"12345678\0" + low.to_bytes(2, "little") + b"\x2d\2\0"
        + high.to_bytes(2, "little") + b"\x15" + bytes(10) + b"123456789012\0mysql_native_password\0"
    )  # fmt: skip


def _answer(database: sqlite3.Connection, statement: str) -> list[bytes]:
    word = statement.split(maxsplit=1)[0].upper()
    if word in ("SET", "START", "COMMIT", "ROLLBACK"):
        return [_OK]
    try:
        # PyMySQL quotes as MySQL does.
        cursor = database.execute(statement.replace("\\'", "''").replace("\\n", "\n"))
    except sqlite3.Error as error:
        return [b"\xff\x28\x04#42000" + str(error).encode()]
    if cursor.description is None:
        return [_OK]
    rows = cursor.fetchall()
    columns = [_column(name[0], [row[at] for row in rows]) for at, name in enumerate(cursor.description)]
    return [bytes([len(columns)]), *columns, _EOF, *(b"".join(map(_value, row)) for row in rows), _EOF]


def _column(name: str, values: Sequence[Any]) -> bytes:
    kind = _LONGLONG if any(isinstance(value, int) for value in values) else _VAR_STRING
    texts = b"".join(map(_value, ("def", DATABASE, "", "", name, name)))
    return texts + b"\x0c\x2d\0" + (1024).to_bytes(4, "little") + bytes([kind]) + bytes(5)


def _value(value: object) -> bytes:
    if value is None:
        return b"\xfb"
    data = str(value).encode()
    return (bytes([len(data)]) if len(data) < 251 else b"\xfc" + len(data).to_bytes(2, "little")) + data
