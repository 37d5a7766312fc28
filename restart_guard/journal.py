"""The journal: an SQLite file that holds every outcome first, and what of it has still to reach a destination.

Durability. The rollback journal with ``synchronous = EXTRA``: a commit has returned only when the database file, the
rollback journal and, after its removal, the directory are on disk, so an outcome survives kill -9 and power loss
(https://www.sqlite.org/pragma.html#pragma_synchronous). WAL would save one fsync and let readers in during a commit,
but even reading it needs write access to the directory: with the disk full or read-only, at the very time when an
operator asks for ``history``, it could not be read.

Several processes. Each write is one ``BEGIN IMMEDIATE`` transaction and waits up to ten seconds for another's.

Bounds. ``prune`` removes events that are older than 400 days or beyond the newest 10,000, and of these only such as
have nothing pending: what was not delivered is never removed. Events are append-only; a trigger refuses to change one.
"""

import errno
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from restart_guard.clock import stamp
from restart_guard.errors import JournalError
from restart_guard.incident import Incident

SCHEMA_VERSION = 1
KEEP_DAYS = 400
KEEP_EVENTS = 10_000
_WAIT_S = 10.0

_SCHEMA = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    at TEXT NOT NULL,                -- ISO 8601, UTC
    kind TEXT NOT NULL,              -- check, target, refresh, ...
    subject TEXT NOT NULL,           -- the check's or target's name
    status TEXT NOT NULL,            -- success or failure
    detail TEXT NOT NULL,
    data TEXT NOT NULL               -- JSON: what the kind has more to say
);
CREATE INDEX events_by_subject ON events (kind, subject, id);
CREATE TRIGGER events_are_append_only BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY,
    event_id INTEGER NOT NULL REFERENCES events (id),
    destination TEXT NOT NULL,       -- mysql, wecom, wecom_app
    payload TEXT NOT NULL,           -- JSON, complete: a resend sends the same
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'blocked', 'delivered')),
    tries INTEGER NOT NULL DEFAULT 0,
    next_try TEXT,                   -- the tick waits for it
    not_before TEXT,                 -- the destination asked for silence until then
    error TEXT,
    error_code TEXT,
    config_mark TEXT,                -- blocked: the mark of the config that did not work
    delivered_at TEXT
);
CREATE INDEX deliveries_open ON deliveries (destination, id) WHERE state != 'delivered';
CREATE INDEX deliveries_by_event ON deliveries (event_id);
CREATE TABLE incidents (
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    id TEXT NOT NULL,
    opened_at TEXT NOT NULL,
    failures INTEGER NOT NULL,
    notices INTEGER NOT NULL,
    last_notice_at TEXT,
    PRIMARY KEY (kind, subject)
);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);  -- the newest of each only
"""


class Event(NamedTuple):
    run_id: str
    at: datetime
    kind: str
    subject: str
    status: str
    detail: str
    data: Mapping[str, Any]


class Delivery(NamedTuple):
    """A row or message that has still to reach its destination."""

    id: int
    destination: str
    payload: Any
    state: str
    tries: int
    next_try: datetime | None
    not_before: datetime | None
    error: str | None
    config_mark: str | None


class Journal:
    """An open journal; a context manager. Every method may raise JournalError."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, state_dir: Path) -> Self:
        """Open the journal in the state directory, making both where they are missing."""
        path = state_dir / "journal.db"
        with _told(path):
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                path.touch(mode=0o600)
            connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = EXTRA")
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA temp_store = MEMORY")
                _make_schema(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    @classmethod
    def open_to_read(cls, state_dir: Path) -> Self | None:
        """Open one that is there, also on a full or read-only disk (SQLite then only reads); None without one."""
        path = state_dir / "journal.db"
        with _told(path):
            if not path.exists() or path.stat().st_size == 0:
                return None
            connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", timeout=_WAIT_S, isolation_level=None, uri=True)
            try:
                _refuse_newer(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on disk when it ends."""
        with _told(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # A failed COMMIT (full disk) may have rolled back by itself already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _run(self, sql: str, *values: object) -> sqlite3.Cursor:
        with _told(self.path):
            return self._connection.execute(sql, values)

    def append(self, event: Event, deliveries: Sequence[tuple[str, Any]]) -> None:
        """Add an event and its (destination, payload) pairs; only inside a transaction."""
        cursor = self._run(
            "INSERT INTO events (run_id, at, kind, subject, status, detail, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(event.run_id, stamp(event.at), event.kind, event.subject, event.status, event.detail, _json(event.data)),
        )
        for destination, payload in deliveries:
            self._run(
                "INSERT INTO deliveries (event_id, destination, payload) VALUES (?, ?, ?)",
                *(cursor.lastrowid, destination, _json(payload)),
            )

    def incident(self, kind: str, subject: str) -> Incident | None:
        row = self._run(
            "SELECT id, opened_at, failures, notices, last_notice_at FROM incidents WHERE kind = ? AND subject = ?",
            *(kind, subject),
        ).fetchone()
        if row is None:
            return None
        return Incident(row[0], datetime.fromisoformat(row[1]), row[2], row[3], _moment(row[4]))

    def set_incident(self, kind: str, subject: str, incident: Incident | None) -> None:
        if incident is None:
            self._run("DELETE FROM incidents WHERE kind = ? AND subject = ?", kind, subject)
            return
        last = stamp(incident.last_notice_at) if incident.last_notice_at else None
        self._run(
            "INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(kind, subject, incident.id, stamp(incident.opened_at), incident.failures, incident.notices, last),
        )

    def undelivered(self, destination: str | None = None) -> list[Delivery]:
        """What has not arrived yet, oldest first, blocked ones included."""
        where, values = ("AND destination = ?", (destination,)) if destination else ("", ())
        rows = self._run(
            "SELECT id, destination, payload, state, tries, next_try, not_before, error, config_mark "  # noqa: S608 (constants)
            f"FROM deliveries WHERE state != 'delivered' {where} ORDER BY id",
            *values,
        )
        return [
            Delivery(
                *(row[0], row[1], msgspec.json.decode(row[2]), row[3], row[4]),
                *(_moment(row[5]), _moment(row[6]), row[7], row[8]),
            )
            for row in rows
        ]

    def delivered(self, delivery_id: int, at: datetime) -> None:
        with self.transaction():
            self._run(
                "UPDATE deliveries SET state = 'delivered', delivered_at = ?, tries = tries + 1, error = NULL, "
                "error_code = NULL, next_try = NULL, not_before = NULL, config_mark = NULL WHERE id = ?",
                *(stamp(at), delivery_id),
            )

    def failed(self, delivery_id: int, error: str, code: str, next_try: datetime, not_before: datetime | None) -> None:
        """A try failed in a way that may pass."""
        with self.transaction():
            self._run(
                "UPDATE deliveries SET state = 'pending', tries = tries + 1, error = ?, error_code = ?, next_try = ?, "
                "not_before = ?, config_mark = NULL WHERE id = ?",
                *(error, code, stamp(next_try), stamp(not_before) if not_before else None, delivery_id),
            )

    def block(self, delivery_id: int, error: str, code: str, config_mark: str) -> None:
        """A try failed in a way that only a person can mend."""
        with self.transaction():
            self._run(
                "UPDATE deliveries SET state = 'blocked', tries = tries + 1, error = ?, error_code = ?, "
                "next_try = NULL, not_before = NULL, config_mark = ? WHERE id = ?",
                *(error, code, config_mark, delivery_id),
            )

    def history(self, *, kind: str | None, subject: str | None, limit: int) -> list[dict[str, Any]]:
        """Events, newest first, each with its deliveries, as ``history --json`` shows them."""
        rows = self._run(
            "SELECT id, run_id, at, kind, subject, status, detail, data FROM events "
            "WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR subject = ?2) ORDER BY id DESC LIMIT ?3",
            *(kind, subject, limit),
        ).fetchall()
        return [self._shown(*row) for row in rows]

    def event(self, run_id: str) -> dict[str, Any] | None:
        row = self._run(
            "SELECT id, run_id, at, kind, subject, status, detail, data FROM events WHERE run_id = ?", run_id
        ).fetchone()
        return self._shown(*row) if row else None

    def _shown(self, *row: Any) -> dict[str, Any]:
        event_id, run_id, at, kind, subject, status, detail, data = row
        deliveries = self._run(
            "SELECT destination, state, tries, error, error_code, next_try, delivered_at FROM deliveries "
            "WHERE event_id = ? ORDER BY id",
            event_id,
        ).fetchall()
        names = ("destination", "state", "tries", "error", "error_code", "next_try", "delivered_at")
        arrived: dict[str, bool] = {}
        for found in deliveries:
            arrived[found[0]] = arrived.get(found[0], True) and found[1] == "delivered"
        return {
            "at": datetime.fromisoformat(at).astimezone().isoformat(timespec="milliseconds"),
            "kind": kind,
            "run_id": run_id,
            kind if kind in ("check", "target", "refresh") else "subject": subject,
            "status": status,
            "detail": detail,
            "delivered": arrived,
            "deliveries": [dict(zip(names, found, strict=True)) for found in deliveries],
            **msgspec.json.decode(data),
        }

    def last_delivery(self, destination: str) -> datetime | None:
        row = self._run(
            "SELECT max(delivered_at) FROM deliveries WHERE destination = ? AND state = 'delivered'", destination
        ).fetchone()
        return _moment(row[0])

    def remember(self, name: str, value: str) -> None:
        """Keep the newest value of a fact. Nothing is written when it is the same already."""
        if self.recall(name) != value:
            self._run("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)

    def recall(self, name: str) -> str | None:
        row = self._run("SELECT value FROM facts WHERE name = ?", name).fetchone()
        return str(row[0]) if row else None

    def salt(self) -> str:
        """A random text made once for each journal."""
        with self.transaction():
            self._run("INSERT OR IGNORE INTO facts VALUES ('salt', ?)", secrets.token_hex(16))
        return self.recall("salt") or ""

    def prune(self, now: datetime) -> None:
        """Remove some old events that have nothing pending, at most 500 a time; only inside a transaction."""
        old = stamp(now - timedelta(days=KEEP_DAYS))
        self._run("CREATE TEMP TABLE IF NOT EXISTS pruned (id INTEGER PRIMARY KEY)")
        self._run("DELETE FROM pruned")
        self._run(
            "INSERT INTO pruned SELECT id FROM events WHERE "
            "(at < ?1 OR id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?2)) AND NOT EXISTS "
            "(SELECT 1 FROM deliveries WHERE event_id = events.id AND state != 'delivered') ORDER BY id LIMIT 500",
            *(old, KEEP_EVENTS),
        )
        self._run("DELETE FROM deliveries WHERE event_id IN (SELECT id FROM pruned)")
        self._run("DELETE FROM events WHERE id IN (SELECT id FROM pruned)")

    def check_integrity(self) -> str:
        """``ok``, or what SQLite finds damaged."""
        return str(self._run("PRAGMA quick_check(1)").fetchone()[0])


def _make_schema(connection: sqlite3.Connection, path: Path) -> None:
    if _refuse_newer(connection, path) == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Looked at again under the lock: another process may have made it meanwhile.
        if _refuse_newer(connection, path) == 0:
            for statement in _statements(_SCHEMA):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _refuse_newer(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise JournalError(
            f"The journal {path} was written by a newer restart-guard (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); nothing was changed. Upgrade restart-guard."
        )
    return version


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one: executescript() would commit the transaction that is open."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what the disk and SQLite say into a sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise JournalError(f"The journal {path} {_why(error, path)}") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        advice = " Free some space." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise JournalError(f"The journal {path} cannot be opened: {reason}.{advice}") from error


def _why(error: sqlite3.Error, path: Path) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return "cannot be written: the disk is full. Free some space."
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"cannot be written: no permission, or a read-only file system. Look at {path.parent}."
    if name.startswith("SQLITE_BUSY"):
        return f"is locked by another process for more than {_WAIT_S:.0f} s. Look for one that holds it: fuser {path}"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return f"is damaged ({error}). Move it away to start a new one; sqlite3 {path} .recover may save its rows."
    if name.startswith("SQLITE_IOERR"):
        space = _free_bytes(path)
        return "cannot be written: the disk is full. Free some space." if space == 0 else f"met a disk error: {name}."
    return f"cannot be used: {error}."


def _free_bytes(path: Path) -> int | None:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
