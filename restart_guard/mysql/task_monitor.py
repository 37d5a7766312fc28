"""MySQL or MariaDB: rows of ``task_monitor``, each exactly once.

How a row arrives once depends on the existing table, and is decided on every connection:

- ``unique``: the table has a unique ``run_id``; the key refuses a second insert, and that counts as success.
- ``sidecar``: it has none; one transaction inserts the run_id into ``restart_guard_applied`` and the row.
- ``look``: the sidecar may not be created, or the table is not transactional; under a named lock the row is looked for
  by a mark in its description before it is inserted.

The user's table is never altered; columns that it does not have are left out.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from typing import Any, NamedTuple, Self

import pymysql
from pymysql.constants import ER

from restart_guard.config.options import MySql
from restart_guard.errors import DeliveryError
from restart_guard.mysql import client as mysql_client
from restart_guard.mysql.table import Row, Table, read_table

SIDECAR = "restart_guard_applied"
_LOCK_WAIT_S = 3
# Numbers of the driver's own and of the client library; the others are the server's.
_CLIENT = range(2000, 3000)
# What an INSERT may raise that is not about its row: a lock, a limit, a full disk, a server that stops or only reads, a
# right that is missing, a table that is not as it was.
_OF_ANY_ROW = {
    *(ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, ER.LOCK_TABLE_FULL, ER.CANT_UPDATE_WITH_READLOCK),
    *(ER.OPTION_PREVENTS_STATEMENT, ER.OPEN_AS_READONLY, 1792, 1836, 3100, 3101),
    *(ER.DISK_FULL, ER.RECORD_FILE_FULL, ER.GET_ERRNO, ER.ERROR_DURING_COMMIT),
    *(ER.OUTOFMEMORY, ER.OUT_OF_SORTMEMORY, ER.OUT_OF_RESOURCES, ER.CON_COUNT_ERROR, ER.USER_LIMIT_REACHED),
    *(ER.SERVER_SHUTDOWN, ER.QUERY_INTERRUPTED, ER.UNKNOWN_COM_ERROR),
    *(1158, 1159, 1160, 1161, 1927, 1969, 3024, 3168, 3169),
    *(ER.DUP_ENTRY, ER.NO_SUCH_TABLE, ER.BAD_DB_ERROR, ER.BAD_FIELD_ERROR, ER.PARSE_ERROR, ER.NO_DEFAULT_FOR_FIELD),
    *mysql_client.DENIED,
}
_ADVICE = {
    **dict.fromkeys(mysql_client.DENIED, ": check [mysql] user and password, and the user's INSERT and SELECT grants."),
    ER.NO_SUCH_TABLE: ": create it with restart-guard init-db.",
}


class TaskMonitor:
    """An open connection to the table; close it after use."""

    def __init__(self, settings: MySql, connection: "pymysql.Connection[Any]", table: Table, mode: str) -> None:
        self._settings = settings
        self._connection = connection
        self.table = table
        self.mode = mode

    @classmethod
    def connect(cls, settings: MySql, *, only_look: bool = False) -> Self:
        """Connect and read the table's structure, creating the sidecar if it is needed. Raises DeliveryError.

        With ``only_look`` nothing is created.
        """
        connection = _connect(settings)
        with ExitStack() as on_error:
            on_error.callback(connection.close)
            with mysql_client.translate_errors(name(settings), _ADVICE), connection.cursor() as cursor:
                table = read_table(cursor, settings)
                mode = _mode(cursor, settings, table, only_look=only_look)
            on_error.pop_all()
        return cls(settings, connection, table, mode)

    def close(self) -> None:
        self._connection.close()

    def insert(self, row: Row) -> None:
        """Make sure that the row is in the table, once. Raises DeliveryError."""
        with mysql_client.translate_errors(name(self._settings), _ADVICE), self._connection.cursor() as cursor:
            try:
                self._insert(cursor, row)
                self._connection.commit()
            except pymysql.err.IntegrityError as error:
                self._connection.rollback()
                if error.args[0] != ER.DUP_ENTRY or not self._is_there(cursor, row):
                    raise
            finally:
                # A transaction that failed must not hold locks while the next row is tried.
                if self._connection.open:
                    self._connection.rollback()

    def _insert(self, cursor: Any, row: Row) -> None:
        if self.mode == "sidecar":
            cursor.execute(f"INSERT INTO {SIDECAR} (run_id, at) VALUES (%s, %s)", (row.run_id, row.task_execution_time))
        elif self.mode == "look":
            row = self.table.marked(row)
            cursor.execute("SELECT GET_LOCK(%s, %s)", (f"restart_guard:{row.run_id}", _LOCK_WAIT_S))
            if cursor.fetchone()[0] != 1:
                text = "an earlier connection is still writing this row; the next run tries again."
                raise DeliveryError(f"MySQL {name(self._settings)}: {text}", code="locked")
            if self._is_there(cursor, row):
                return
        values = self.table.values(row)
        columns = ", ".join(f"`{column}`" for column in values)
        marks = ", ".join(["%s"] * len(values))
        table = f"`{self._settings.table}`"
        with self._about_row():
            cursor.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(values.values()))

    @contextmanager
    def _about_row(self) -> Iterator[None]:
        """What the INSERT itself raises is about this row: a trigger, a constraint, a time that does not exist. The row
        waits for a person, and the others pass; unless the server could not do it at this moment, or for any row."""
        try:
            yield
        except pymysql.err.MySQLError as error:
            number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
            if number == 0 or number in _CLIENT or number in _OF_ANY_ROW:
                raise
            text = f"MySQL {name(self._settings)} refuses the row: {error.args[1]} ({number})"
            raise DeliveryError(text, code=str(number), permanent=True, whole_destination=False) from error

    def _is_there(self, cursor: Any, row: Row) -> bool:
        """Whether this row has arrived before."""
        if self.mode == "sidecar":
            cursor.execute(f"SELECT 1 FROM {SIDECAR} WHERE run_id = %s", (row.run_id,))
        elif self.mode == "unique":
            column = self.table.columns["run_id"].name
            cursor.execute(f"SELECT 1 FROM `{self._settings.table}` WHERE `{column}` = %s", (row.run_id,))
        else:
            column, mark = self.table.mark(row)
            query = f"SELECT 1 FROM `{self._settings.table}` WHERE RIGHT(`{column}`, %s) = %s LIMIT 1"
            cursor.execute(query, (len(mark), mark))
        return cursor.fetchone() is not None


class Created(NamedTuple):
    """The result of ``create``."""

    was_there: bool
    mode: str
    missing: tuple[str, ...]


def create(settings: MySql) -> Created:
    """Create the full table or, beside an existing table, what exactly-once needs. Raises DeliveryError."""
    task_monitor, _sidecar = statements(settings)
    connection = _connect(settings)
    try:
        with mysql_client.translate_errors(name(settings), _ADVICE), connection.cursor() as cursor:
            cursor.execute("SHOW TABLES LIKE %s", (settings.table.replace("_", r"\_"),))
            was_there = cursor.fetchone() is not None
            if not was_there:
                cursor.execute(task_monitor)
            table = read_table(cursor, settings)
            mode = _mode(cursor, settings, table)
    finally:
        connection.close()
    return Created(was_there, mode, table.missing)


def statements(settings: MySql) -> tuple[str, str]:
    """The statements that create the table and its sidecar, for an operator who must run them by hand."""
    script = (files("restart_guard.mysql") / "schema.sql").read_text(encoding="utf-8")
    lines = [line for line in script.format(table=settings.table).splitlines() if not line.startswith("--")]
    task_monitor, sidecar = "\n".join(lines).strip().rstrip(";").split(";\n")
    return task_monitor.strip(), sidecar.strip()


def name(settings: MySql) -> str:
    """The table and its server, for messages: ``irmdata.task_monitor at localhost:3306``."""
    return f"{settings.database}.{settings.table} at {mysql_client.place(settings)}"


def _mode(cursor: Any, settings: MySql, table: Table, *, only_look: bool = False) -> str:
    if table.has_unique_run_id:
        return "unique"
    if not table.transactional:
        return "look"
    _task_monitor, sidecar = statements(settings)
    try:
        cursor.execute(f"SELECT 1 FROM {SIDECAR} LIMIT 1")
    except pymysql.err.MySQLError as error:
        if error.args[0] not in mysql_client.DENIED | {ER.NO_SUCH_TABLE}:
            raise
        if only_look and error.args[0] == ER.NO_SUCH_TABLE:
            return "sidecar"
        try:
            cursor.execute(sidecar)
            cursor.execute(f"SELECT 1 FROM {SIDECAR} LIMIT 1")
        except pymysql.err.MySQLError as refused:
            if refused.args[0] not in mysql_client.DENIED:
                raise
            return "look"
    return "sidecar"


def _connect(settings: MySql) -> "pymysql.Connection[Any]":
    connection = mysql_client.connect(settings, name(settings), _ADVICE)
    with mysql_client.translate_errors(name(settings), _ADVICE), connection.cursor() as cursor:
        cursor.execute("SET SESSION innodb_lock_wait_timeout = %s", (_LOCK_WAIT_S,))
    return connection
