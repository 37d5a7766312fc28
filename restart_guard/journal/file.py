"""The journal's file: its schema, how it is opened, and errors of the disk and of SQLite as sentences.

Durability. The rollback journal with ``synchronous = EXTRA``: a commit has returned only when the database file, the
rollback journal and, after its removal, the directory are on disk, so an outcome survives kill -9 and power loss
(https://www.sqlite.org/pragma.html#pragma_synchronous). WAL would save one fsync and allow reads during a commit, but
even reading it needs write access to the directory: if the disk is full or read-only, exactly when an operator asks for
``history``, it could not be read.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from restart_guard.errors import JournalError

SCHEMA_VERSION = 2
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

# Since schema 2. The newest span of each subject is in a small table of its own, since each tick writes it.
_SPANS = """
CREATE TABLE spans (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,              -- target
    subject TEXT NOT NULL,
    state TEXT NOT NULL,
    since REAL NOT NULL,             -- seconds since 1970, UTC
    until REAL NOT NULL
);
CREATE INDEX spans_by_subject ON spans (kind, subject, since);
CREATE TABLE newest_spans (
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    state TEXT NOT NULL,
    since REAL NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (kind, subject)
) WITHOUT ROWID;
CREATE TABLE totals (
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    relaunches INTEGER NOT NULL,
    down_s REAL NOT NULL,
    PRIMARY KEY (kind, subject)
) WITHOUT ROWID;
INSERT INTO totals SELECT kind, subject, count(*), 0 FROM events
    WHERE kind = 'target' AND json_extract(data, '$.relaunch') GROUP BY kind, subject;
"""
_DEATHS = "CREATE INDEX deaths ON events (subject, id) WHERE kind = 'target' AND json_extract(data, '$.died')"


def open_file(state_dir: Path) -> tuple[Path, sqlite3.Connection]:
    """Open the journal in the state directory; both are created if they are missing. Raises JournalError."""
    path = state_dir / "journal.db"
    with translate_errors(path), ExitStack() as on_error:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
        else:
            _narrow(path)
        connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
        on_error.callback(connection.close)
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("PRAGMA foreign_keys = ON")
        # Temporary tables in memory: a full disk must not stop a statement that needs no space.
        connection.execute("PRAGMA temp_store = MEMORY")
        _make_schema(connection, path)
        on_error.pop_all()
    return path, connection


def _narrow(path: Path) -> None:
    """A journal of our own that others can read was made by hand, copied or restored."""
    status = path.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        path.chmod(0o600)


def open_file_to_read(state_dir: Path) -> tuple[Path, sqlite3.Connection] | None:
    """Open an existing journal, also on a full or read-only disk (SQLite then only reads); None if there is none.

    To one of schema 1 the newer tables are added in memory: it is changed only by whoever writes to it.
    """
    path = state_dir / "journal.db"
    with translate_errors(path), ExitStack() as on_error:
        if not path.exists() or path.stat().st_size == 0:
            return None
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", timeout=_WAIT_S, isolation_level=None, uri=True)
        on_error.callback(connection.close)
        version = _refuse_newer(connection, path)
        if version == 0:
            return None
        if version == 1:
            connection.execute("PRAGMA temp_store = MEMORY")
            _run_all(connection, _SPANS.replace("CREATE TABLE", "CREATE TEMP TABLE").replace("INDEX ", "INDEX temp."))
        on_error.pop_all()
    return path, connection


@contextmanager
def transaction(path: Path, connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and on disk when it ends. Raises JournalError."""
    with translate_errors(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            # A failed COMMIT (full disk) may have rolled back by itself already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _make_schema(connection: sqlite3.Connection, path: Path) -> None:
    if _refuse_newer(connection, path) == SCHEMA_VERSION:
        return
    with transaction(path, connection):
        # Look again under the lock: another process may have created it in the meantime.
        version = _refuse_newer(connection, path)
        if version == 0:
            _run_all(connection, _SCHEMA)
        if version < SCHEMA_VERSION:
            _run_all(connection, _SPANS)
            connection.execute(_DEATHS)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _run_all(connection: sqlite3.Connection, script: str) -> None:
    for statement in _statements(script):
        connection.execute(statement)


def _refuse_newer(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise JournalError(
            f"The journal {path} was written by a newer restart-guard (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); nothing was changed. Upgrade restart-guard."
        )
    return version


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one: executescript() would commit the open transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Turns errors of the disk and of SQLite into a JournalError with a sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise JournalError(f"The journal {path} {_why(error, path)}") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        advice = " Free some space." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise JournalError(f"The journal {path} cannot be opened: {reason}.{advice}") from error


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns a stored value that makes no sense into a JournalError."""
    try:
        yield
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        text = f"The journal {path} holds a value that cannot be read ({error}). Move it away to start a new one."
        raise JournalError(text) from error


def _why(error: sqlite3.Error, path: Path) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return "cannot be written: the disk is full. Free some space."
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"cannot be written: no permission, or a read-only file system. Check {path.parent}."
    if name.startswith("SQLITE_BUSY"):
        return f"has been locked by another process for more than {_WAIT_S:.0f} s. To find it: fuser {path}"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return f"is damaged ({error}). Move it away to start a new one; sqlite3 {path} .recover may save its rows."
    if name.startswith("SQLITE_IOERR"):
        space = _free_bytes(path)
        return "cannot be written: the disk is full. Free some space." if space == 0 else f"met a disk error: {name}."
    return f"cannot be used: {error}."


def _free_bytes(path: Path) -> int | None:
    try:
        statistics = os.statvfs(path.parent)
    except OSError:
        return None
    return statistics.f_bavail * statistics.f_frsize
