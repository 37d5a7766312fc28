"""Streams the rows of one SELECT as bytes, in limited memory, from a read-only session.

A row is taken from the wire as the server wrote it, in the text protocol:
https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset.html PyMySQL's own
cursor makes a Python object of each value, which takes ten times as long; here it only logs in, sends the query and
reads the columns.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple

import pymysql
from pymysql.constants import CR, ER, FIELD_TYPE

from restart_guard import clock
from restart_guard.config.options import MySql
from restart_guard.errors import RefreshError
from restart_guard.mysql import client as mysql_client

BATCH_BYTES = 2**20
"""A batch ends here, however few rows it has."""

_READ_BYTES = 2**18
_LARGEST_PACKET = 0xFFFFFF
_LARGEST_ROW = 600 << 20  # no value of Redis is as large
_EOF, _ERROR, _NULL = 0xFE, 0xFF, 0xFB
_NUMBERS = (
    *(FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG, FIELD_TYPE.YEAR),
    *(FIELD_TYPE.DECIMAL, FIELD_TYPE.NEWDECIMAL, FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE, FIELD_TYPE.BIT),
)
_ADVICE = {
    **dict.fromkeys(mysql_client.DENIED, ": check [mysql] user and password, and its SELECT grant."),
    ER.PARSE_ERROR: ": expected one SELECT.",
    1792: ": a refresh may only read.",
    1969: ": the query took longer than the refresh's timeout.",
    3024: ": the query took longer than the refresh's timeout.",
}

Batch = list[bytes | None]
"""The values of whole rows, one after the other; None is NULL."""


class Kind(Enum):
    """What the bytes of a value are."""

    TEXT = "text"
    NUMBER = "number"
    JSON = "json"


class Column(NamedTuple):
    name: str
    kind: Kind


_KINDS = {**dict.fromkeys(_NUMBERS, Kind.NUMBER), FIELD_TYPE.JSON: Kind.JSON}


class Rows:
    """The answer to one query. ``batches`` can be read once."""

    def __init__(self, connection: Any, what: str) -> None:
        self._connection = connection
        self._what = what
        fields = getattr(connection._result, "fields", None)  # noqa: SLF001 (see the top)
        if not fields:
            raise RefreshError("no_rows")
        self.columns = [Column(field.name, _KINDS.get(field.type_code, Kind.TEXT)) for field in fields]
        self._bits = [place for place, field in enumerate(fields) if field.type_code == FIELD_TYPE.BIT]

    def batches(self, rows: int) -> Iterator[Batch]:
        """Up to this many rows at a time. Raises DeliveryError, also if the stream breaks off."""
        warnings: list[int] = []
        source = _packets(self._connection._rfile, rows * len(self.columns), warnings)  # noqa: SLF001
        while True:
            with mysql_client.translate_errors(self._what, _ADVICE):
                batch = next(source, None)
            if batch is None:
                self._connection._result.unbuffered_active = False  # noqa: SLF001 (all is read)
                if warnings != [0]:
                    self._refuse_cut_values()
                return
            for place in self._bits:
                batch[place :: len(self.columns)] = map(_bits_in_decimal, batch[place :: len(self.columns)])
            yield batch

    def _refuse_cut_values(self) -> None:
        """A value that the server cut to fit is no data (error 1260, GROUP_CONCAT). Raises RefreshError."""
        with mysql_client.translate_errors(self._what, _ADVICE), self._connection.cursor() as cursor:
            cursor.execute("SHOW WARNINGS")
            cut = [str(text) for _, number, text in cursor.fetchall() if number == ER.CUT_VALUE_GROUP_CONCAT]
        if cut:
            raise RefreshError("cut", text=cut[0])


def _bits_in_decimal(value: bytes | None) -> bytes | None:
    """A value of a BIT column, which the server sends as the bytes of the number."""
    return None if value is None else b"%d" % int.from_bytes(value, "big")


@contextmanager
def reading(settings: MySql, refresh: str, timeout_s: float) -> Iterator[Callable[[str], Rows]]:
    """A function that runs a query; all queries share one read-only snapshot and one timeout, in seconds.

    Raises DeliveryError.
    """
    what = f"{settings.database} at {mysql_client.place(settings)}, refresh {refresh}"
    connection: Any = mysql_client.connect(settings, what, _ADVICE, read_timeout_s=timeout_s + settings.timeout)
    deadline = clock.monotonic() + timeout_s

    def ask(query: str) -> Rows:
        left = max(0.001, deadline - clock.monotonic())
        with mysql_client.translate_errors(what, _ADVICE):
            _limit_time(connection, left)
            connection.query(query, unbuffered=True)
        return Rows(connection, what)

    try:
        with mysql_client.translate_errors(what, _ADVICE), connection.cursor() as cursor:
            cursor.execute("SET SESSION net_write_timeout = 600")
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        yield ask
    finally:
        # close() would first read the remaining rows.
        if connection._result is not None:  # noqa: SLF001
            connection._result.unbuffered_active = False  # noqa: SLF001
        connection._force_close()  # noqa: SLF001


def _limit_time(connection: Any, seconds: float) -> None:
    """The server ends the statement by itself after this time, since our end of the connection may be dead."""
    with connection.cursor() as cursor:
        if "MariaDB" in connection.get_server_info():
            cursor.execute("SET SESSION max_statement_time = %s", (seconds,))
        else:
            cursor.execute("SET SESSION max_execution_time = %s", (int(seconds * 1000),))


def _packets(stream: Any, most: int, warnings: list[int]) -> Iterator[Batch]:
    """Row packets as batches of values; at the end ``warnings`` gets how many the server has.

    It is one loop, since it runs once for each value: a function call for each would double the time.
    """
    batch: Batch = []
    size, data, at = 0, b"", 0
    while True:
        if at + 4 > len(data):
            data, at = data[at:] + _more(stream, 1), 0
            continue
        length = data[at] | data[at + 1] << 8 | data[at + 2] << 16
        start, end = at + 4, at + 4 + length
        if end > len(data):
            data, at = data[at:] + _more(stream, end - len(data)), 0
            continue
        first = data[start] if length else 0
        if first == _EOF and length < 9:
            if batch:
                yield batch
            warnings.append(int.from_bytes(data[start + 1 : start + 3], "little"))
            return
        if first == _ERROR:
            pymysql.err.raise_mysql_exception(data[start:end])
        if length == _LARGEST_PACKET:
            row, data, end = _long_row(stream, data, at)
            batch += _values(row)
            size += len(row)
        else:
            while start < end:
                length = data[start]
                if length < _NULL:
                    start += 1
                    batch.append(data[start : start + length])
                    start += length
                else:
                    value, start = _value(data, start)
                    batch.append(value)
            size += end - at
        at = end
        if len(batch) >= most or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0


def _more(stream: Any, least: int) -> bytes:
    """More bytes from the connection; for a large packet the rest of it."""
    data: bytes = stream.read(least) if least > _READ_BYTES else stream.read1(_READ_BYTES)
    if not data:
        raise pymysql.err.OperationalError(CR.CR_SERVER_LOST, "Lost connection to MySQL server during query")
    return data


def _long_row(stream: Any, data: bytes, at: int) -> tuple[bytes, bytes, int]:
    """A row of several packets, of which all but the last are full. Returns the row, the bytes in hand, and where it
    ends. One without end is an error."""
    parts: list[bytes] = []
    while len(parts) * _LARGEST_PACKET < _LARGEST_ROW:
        while at + 4 > len(data):
            data, at = data[at:] + _more(stream, 1), 0
        length = data[at] | data[at + 1] << 8 | data[at + 2] << 16
        while at + 4 + length > len(data):
            data, at = data[at:] + _more(stream, at + 4 + length - len(data)), 0
        parts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
        if length < _LARGEST_PACKET:
            return b"".join(parts), data, at
    raise pymysql.err.OperationalError(CR.CR_NET_PACKET_TOO_LARGE, f"a row of more than {_LARGEST_ROW >> 20} MiB")


def _values(row: bytes) -> Batch:
    values: Batch = []
    at = 0
    while at < len(row):
        value, at = _value(row, at)
        values.append(value)
    return values


def _value(data: bytes, at: int) -> tuple[bytes | None, int]:
    """A length-encoded string and where it ends."""
    first = data[at]
    if first == _NULL:
        return None, at + 1
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    at += 1
    length = int.from_bytes(data[at : at + width], "little") if width else first
    at += width
    return data[at : at + length], at + length
