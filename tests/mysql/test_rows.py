"""Rows from the wire: any values, cut into any pieces."""

import inspect
from typing import Any

import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysql.connections import MySQLResult

from restart_guard.mysql import rows as mysql_rows
from restart_guard.mysql.rows import _packets

EOF = b"\xfe\0\0\2\0"
values = st.none() | st.binary(max_size=40) | st.sampled_from([b"x" * 250, b"y" * 251, b"\xfe", b"\xff"])


class Pieces:
    """A stream that gives what it has in pieces of the test's own sizes."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data = data
        self.sizes = sizes or [1]
        self.turn = 0

    def read1(self, most: int) -> bytes:
        self.turn += 1
        return self.read(min(most, self.sizes[self.turn % len(self.sizes)]))

    def read(self, count: int) -> bytes:
        found, self.data = self.data[:count], self.data[count:]
        return found


def encoded(value: bytes | None) -> bytes:
    if value is None:
        return b"\xfb"
    if len(value) < 251:
        return bytes([len(value)]) + value
    if len(value) < 2**16:
        return b"\xfc" + len(value).to_bytes(2, "little") + value
    if len(value) < 2**24:
        return b"\xfd" + len(value).to_bytes(3, "little") + value
    return b"\xfe" + len(value).to_bytes(8, "little") + value


def packets(*payloads: bytes) -> bytes:
    """Each as its packets: a payload of 16 MB or more takes several, of which the last is not full."""
    found = []
    for payload in payloads:
        rest = payload
        while True:
            part, rest = rest[:0xFFFFFF], rest[0xFFFFFF:]
            found.append(len(part).to_bytes(3, "little") + b"\0" + part)
            if len(part) < 0xFFFFFF:
                break
    return b"".join(found)


@given(
    st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(values, min_size=width, max_size=width), max_size=12)),
    st.lists(st.sampled_from([1, 3, 4, 5, 100, 2**18]), max_size=5),
    st.integers(1, 5),
)
def test_every_row_arrives(rows: list[list[bytes | None]], sizes: list[int], batch: int) -> None:
    """Whole rows, in their order, in batches of the wanted number, however the wire cuts them."""
    width = len(rows[0]) if rows else 1
    data = packets(*(b"".join(map(encoded, row)) for row in rows), EOF)
    found = list(_packets(Pieces(data, sizes), batch * width, []))
    assert [value for one in found for value in one] == [value for row in rows for value in row]
    assert all(len(one) <= batch * width for one in found)


@pytest.mark.parametrize("length", [70_000, 0xFFFFFF - 4, 0xFFFFFF, 0xFFFFFF + 10, 2 * 0xFFFFFF - 9])
def test_rows_of_many_megabytes(length: int) -> None:
    """Beyond 16 MB a row comes in several packets, an empty one at the end when it fits exactly."""
    big = b"v" * length
    rows: list[Any] = [b"k", big, b"m", b"n"]
    data = packets(encoded(b"k") + encoded(big), encoded(b"m") + encoded(b"n"), EOF)
    assert [value for one in _packets(Pieces(data, [2**18]), 100, []) for value in one] == rows


@given(st.lists(values, min_size=1, max_size=5), st.integers(0, 300))
def test_a_stream_that_ends_early_is_an_error(row: list[bytes | None], kept: int) -> None:
    """Never an end: half a table must not pass for a whole one."""
    data = packets(b"".join(map(encoded, row)), EOF)[:-1][:kept]
    with pytest.raises(pymysql.err.OperationalError, match="Lost connection"):
        list(_packets(Pieces(data, [2**18]), 100, []))


def test_a_row_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each packet says that another one follows."""
    monkeypatch.setattr(mysql_rows, "_LARGEST_ROW", 64 << 20)
    part = b"\xff\xff\xff\x00" + bytes(0xFFFFFF)

    class Endless:
        at = 0

        def read(self, size: int) -> bytes:
            data = (part * (size // len(part) + 2))[self.at : self.at + size]
            self.at = (self.at + size) % len(part)
            return data

        read1 = read

    with pytest.raises(pymysql.err.OperationalError, match="a row of more than 64 MiB"):
        list(_packets(Endless(), 100, []))


def test_an_error_in_midstream_is_raised() -> None:
    """As when the query is killed."""
    data = packets(encoded(b"a"), b"\xff\x25\x05#70100Query execution was interrupted")
    with pytest.raises(pymysql.err.MySQLError, match="interrupted"):
        list(_packets(Pieces(data, [7]), 100, []))


def test_a_batch_is_bounded_in_bytes() -> None:
    """Large values end a batch before its number of rows does."""
    data = packets(*[encoded(b"x" * 200_000)] * 50, EOF)
    batches = list(_packets(Pieces(data, [2**18]), 10_000, []))
    assert len(batches) > 5
    assert all(sum(map(len, map(bytes, one))) <= mysql_rows.BATCH_BYTES + 200_010 for one in batches)  # type: ignore[arg-type]


def test_the_private_parts_of_pymysql_that_we_use_are_there() -> None:
    """PyMySQL promises nothing about them: this fails before a refresh does, and the bound in pyproject.toml names the
    versions that were looked at."""
    connection: Any = pymysql.Connection(defer_connect=True)
    assert connection._result is None
    assert connection._rfile is None
    assert callable(connection._read_bytes)
    assert connection._read_timeout is None
    assert "unbuffered" in inspect.signature(connection.query).parameters
    connection._force_close()
    result = MySQLResult(connection)
    assert result.unbuffered_active is False
    source = inspect.getsource(MySQLResult)
    assert "self.fields = []" in source
    assert "def init_unbuffered_query" in source
