"""The journal: every outcome is written here first, with everything that must still reach a destination.

Several processes. Each write is one ``BEGIN IMMEDIATE`` transaction and waits up to ten seconds for another one.

Limits. ``prune`` removes events beyond the newest 10,000, and those older than 400 days except the newest 1,000 (so
that a clock that is wrong once does not empty the journal), and of these only events that have nothing pending. Spans
(``spans.py``) are kept for 400 days too, and at most 50,000. Events are append-only; a trigger refuses to change one.
"""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from restart_guard.clock import stamp
from restart_guard.config.values import printable, printable_all
from restart_guard.journal.file import open_file, open_file_to_read, readable, transaction, translate_errors
from restart_guard.journal.incident import Incident

KEEP_DAYS = 400
KEEP_EVENTS = 10_000
KEEP_ANYWAY = 1_000
KEEP_SPANS = 50_000
_NO_END = 2**63 - 1
_EVENT = "run_id, at, kind, subject, status, detail, data"


class Event(NamedTuple):
    run_id: str
    at: datetime
    kind: str
    subject: str
    status: str
    detail: str
    data: Mapping[str, Any]


class Totals(NamedTuple):
    """Of a target, since the journal was begun: both never fall."""

    relaunches: int = 0
    down_s: float = 0.0


class Wanted(NamedTuple):
    """Which events are wanted; None: any. ``incident`` is the number in an alert, ``after`` the id of an event."""

    kind: str | None = None
    subject: str | None = None
    status: str | None = None
    since: datetime | None = None
    incident: str | None = None
    after: int = 0


class Delivery(NamedTuple):
    """A row or message that has not reached its destination yet."""

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
        """Open the journal in the state directory; both are created if they are missing."""
        return cls(*open_file(state_dir))

    @classmethod
    def open_to_read(cls, state_dir: Path) -> Self | None:
        """Open an existing journal, also on a full or read-only disk; None if there is none."""
        opened = open_file_to_read(state_dir)
        return cls(*opened) if opened else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing, and on disk when it ends."""
        return transaction(self.path, self._connection)

    def run(self, sql: str, *values: object) -> sqlite3.Cursor:
        """For the modules of this package."""
        with translate_errors(self.path):
            return self._connection.execute(sql, values)

    def append(self, event: Event, deliveries: Sequence[tuple[str, Any]]) -> None:
        """Add an event and its (destination, payload) pairs; only inside a transaction."""
        cursor = self.run(
            "INSERT INTO events (run_id, at, kind, subject, status, detail, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(
                event.run_id,
                stamp(event.at),
                event.kind,
                event.subject,
                event.status,
                printable(event.detail),
                _json(event.data),
            ),
        )
        for destination, payload in deliveries:
            self.run(
                "INSERT INTO deliveries (event_id, destination, payload) VALUES (?, ?, ?)",
                *(cursor.lastrowid, destination, _json(payload)),
            )

    def incident(self, kind: str, subject: str) -> Incident | None:
        row = self.run(
            "SELECT id, opened_at, failures, notices, last_notice_at FROM incidents WHERE kind = ? AND subject = ?",
            *(kind, subject),
        ).fetchone()
        if row is None:
            return None
        with readable(self.path):
            return Incident(row[0], datetime.fromisoformat(row[1]), row[2], row[3], _moment(row[4]))

    def incidents(self, kind: str) -> dict[str, Incident]:
        """All open incidents of a kind, by subject."""
        rows = self.run("SELECT subject FROM incidents WHERE kind = ?", kind).fetchall()
        incidents = {str(row[0]): self.incident(kind, row[0]) for row in rows}
        return {subject: incident for subject, incident in incidents.items() if incident is not None}

    def set_incident(self, kind: str, subject: str, incident: Incident | None) -> None:
        if incident is None:
            self.run("DELETE FROM incidents WHERE kind = ? AND subject = ?", kind, subject)
            return
        last = stamp(incident.last_notice_at) if incident.last_notice_at else None
        self.run(
            "INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(kind, subject, incident.id, stamp(incident.opened_at), incident.failures, incident.notices, last),
        )

    def open_destinations(self) -> list[str]:
        """The destinations that something has not reached yet; blocked deliveries count too."""
        names: list[str] = []
        while True:  # one look into the index for each, however many deliveries wait
            (name,) = self.run(
                "SELECT min(destination) FROM deliveries WHERE state != 'delivered' AND destination > ?",
                names[-1] if names else "",
            ).fetchone()
            if name is None:
                return names
            names.append(str(name))

    def open_states(self, destination: str) -> dict[str, int]:
        """The number of pending and of blocked deliveries to a destination; states without any are left out."""
        rows = self.run(
            "SELECT state, count(*) FROM deliveries WHERE state != 'delivered' AND destination = ? GROUP BY state",
            destination,
        )
        return {str(state): int(count) for state, count in rows}

    def why_waiting(self, destination: str, state: str) -> str | None:
        """The error of the newest delivery to a destination that was tried. What waits behind it has none."""
        row = self.run(
            "SELECT error FROM deliveries WHERE state = ? AND destination = ? AND error IS NOT NULL "
            "ORDER BY id DESC LIMIT 1",
            *(state, destination),
        ).fetchone()
        return str(row[0]) if row else None

    def is_due(self, destination: str, now: datetime, *, silence_only: bool = False) -> bool:
        """Whether nothing asks to leave a destination alone for now: no wait after a failed try or, with
        ``silence_only``, no silence that it asked for. A moment further away than any wait means that the clock was set
        back."""
        column = "not_before" if silence_only else "next_try"
        row = self.run(
            f"SELECT 1 FROM deliveries WHERE state != 'delivered' AND destination = ? AND {column} > ? "  # noqa: S608
            f"AND {column} <= ? LIMIT 1",
            *(destination, stamp(now), stamp(now + timedelta(seconds=DELIVERY_CAP_S))),
        ).fetchone()
        return row is None

    def undelivered(
        self, destination: str | None = None, *, after: int = 0, limit: int = -1, unlike: str | None = None
    ) -> list[Delivery]:
        """What has not arrived yet, oldest first, blocked deliveries included: those behind the one with the id
        ``after``, at most ``limit``, and without those that were blocked by a config with the mark ``unlike``."""
        rows = self.run(
            "SELECT id, destination, payload, state, tries, next_try, not_before, error, config_mark "
            "FROM deliveries WHERE state != 'delivered' AND (?1 IS NULL OR destination = ?1) AND id > ?2 "
            "AND (?3 IS NULL OR config_mark IS NOT ?3) ORDER BY id LIMIT ?4",
            *(destination, after, unlike, limit),
        )
        with readable(self.path):
            return [
                Delivery(
                    *(row[0], row[1], msgspec.json.decode(row[2]), row[3], row[4]),
                    *(_moment(row[5]), _moment(row[6]), row[7], row[8]),
                )
                for row in rows
            ]

    def alerts_waiting(self) -> list[tuple[int, str, str]]:
        """(event id, kind, subject) of events with an alert that was tried and has not arrived."""
        rows = self.run(
            "SELECT DISTINCT events.id, kind, subject FROM deliveries JOIN events ON events.id = event_id WHERE "
            "state != 'delivered' AND destination NOT IN ('mysql', 'ping') AND (tries > 0 OR state = 'blocked') "
            "AND json_extract(payload, '$.mention') "
            "ORDER BY events.id"
        ).fetchall()
        return [(int(row[0]), str(row[1]), str(row[2])) for row in rows]

    def add_delivery(self, event_id: int, destination: str, payload: Mapping[str, Any]) -> None:
        """Add a delivery to an event; the same one only once."""
        with self.transaction():
            self.run(
                "INSERT INTO deliveries (event_id, destination, payload) SELECT ?1, ?2, ?3 WHERE NOT EXISTS "
                "(SELECT 1 FROM deliveries WHERE event_id = ?1 AND destination = ?2 AND payload = ?3)",
                *(event_id, destination, _json(payload)),
            )

    def subject_of(self, delivery_id: int) -> tuple[str, str]:
        """The kind and subject of the event that a delivery is about."""
        row = self.run(
            "SELECT kind, subject FROM events WHERE id = (SELECT event_id FROM deliveries WHERE id = ?)", delivery_id
        ).fetchone()
        return str(row[0]), str(row[1])

    def hold(self, delivery_id: int, why: str) -> None:
        """Keep a delivery back, which is no try."""
        with self.transaction():
            self.run("UPDATE deliveries SET error = ? WHERE id = ?", why, delivery_id)

    def is_newest(self, delivery_id: int) -> bool:
        """Whether there is no later event about the same subject that has something for the same destination."""
        (later,) = self.run(
            "SELECT count(*) FROM deliveries one JOIN events about ON about.id = one.event_id "
            "JOIN deliveries other ON other.destination = one.destination AND other.id > one.id "
            "JOIN events later ON later.id = other.event_id "
            "AND later.kind = about.kind AND later.subject = about.subject WHERE one.id = ?",
            delivery_id,
        ).fetchone()
        return not later

    def last_told(self, delivery_id: int, unless: str) -> Any:
        """The payload that a destination got last, before this one, about the same subject; None if it got none. Those
        with the note ``unless`` were not sent."""
        row = self.run(
            "SELECT told.payload FROM deliveries one JOIN events about ON about.id = one.event_id "
            "JOIN deliveries told ON told.destination = one.destination AND told.id < one.id "
            "AND told.state = 'delivered' AND told.error IS NOT ?2 "
            "JOIN events earlier ON earlier.id = told.event_id AND earlier.kind = about.kind "
            "AND earlier.subject = about.subject WHERE one.id = ?1 ORDER BY told.id DESC LIMIT 1",
            *(delivery_id, unless),
        ).fetchone()
        with readable(self.path):
            return None if row is None else msgspec.json.decode(row[0])

    def has_arrived(self, delivery_id: int, destination: str) -> bool:
        """Whether all that the same event has for another destination has arrived there, and there is something."""
        least, most = self.run(
            "SELECT min(state = 'delivered'), max(state = 'delivered') FROM deliveries WHERE destination = ? "
            "AND event_id = (SELECT event_id FROM deliveries WHERE id = ?)",
            *(destination, delivery_id),
        ).fetchone()
        return bool(least and most)

    def delivered(self, delivery_id: int, at: datetime, note: str | None = None) -> None:
        with self.transaction():
            self.run(
                "UPDATE deliveries SET state = 'delivered', delivered_at = ?, tries = tries + 1, error = ?, "
                "error_code = NULL, next_try = NULL, not_before = NULL, config_mark = NULL WHERE id = ?",
                *(stamp(at), note, delivery_id),
            )

    def failed(self, delivery_id: int, error: str, code: str, next_try: datetime, not_before: datetime | None) -> None:
        """Record a try that failed with a temporary error."""
        with self.transaction():
            self.run(
                "UPDATE deliveries SET state = 'pending', tries = tries + 1, error = ?, error_code = ?, next_try = ?, "
                "not_before = ?, config_mark = NULL WHERE id = ?",
                *(error, code, stamp(next_try), stamp(not_before) if not_before else None, delivery_id),
            )

    def block(self, item: Delivery, error: str, code: str, config_mark: str, *, all_behind: bool) -> None:
        """Record a try that failed with an error that only a person can fix; ``all_behind``: it would be the same for
        what waits behind this item."""
        with self.transaction():
            self.run(
                "UPDATE deliveries SET state = 'blocked', tries = tries + (id = ?1), error = ?2, error_code = ?3, "
                "next_try = NULL, not_before = NULL, config_mark = ?4 "
                "WHERE id = ?1 OR (?5 AND state != 'delivered' AND destination = ?6 AND id > ?1)",
                *(item.id, error, code, config_mark, all_behind, item.destination),
            )

    def history(self, wanted: Wanted, *, limit: int) -> list[dict[str, Any]]:
        """Events, newest first, each with its deliveries, as ``history --json`` shows them."""
        first, last = wanted.after + 1, _NO_END
        if wanted.incident is not None:
            found = self._incident_events(wanted.incident)
            if found is None:
                return []
            first, last, kind, subject = found
            wanted = wanted._replace(kind=kind, subject=subject)
        rows = self.run(
            "SELECT id, run_id, at, kind, subject, status, detail, data FROM events "
            "WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR subject = ?2) AND (?3 IS NULL OR status = ?3) "
            "AND (?4 IS NULL OR at >= ?4) AND id BETWEEN ?5 AND ?6 ORDER BY id DESC LIMIT ?7",
            *(wanted.kind, wanted.subject, wanted.status, stamp(wanted.since) if wanted.since else None),
            *(first, last, limit),
        ).fetchall()
        with readable(self.path):
            return [self._shown(*row) for row in rows]

    def _incident_events(self, number: str) -> tuple[int, int, str, str] | None:
        """The first and the last event of an incident, with its kind and subject; for a target with what led to it. Its
        number is the beginning of the run_id of its first event; it ends when all is well again."""
        begin = self.run(
            "SELECT id, kind, subject FROM events WHERE substr(run_id, 1, 8) = ? AND status = 'failure' "
            "OR substr(run_id, 1, 8) = ? AND kind = 'target' ORDER BY id LIMIT 1",
            *(number.lower(), number.lower()),
        ).fetchone()
        if begin is None:
            return None
        first, kind, subject = begin
        if kind == "target":  # the deaths and relaunches in a row that led to it
            (before,) = self.run(
                "SELECT max(id) FROM events WHERE id < ? AND kind = ? AND subject = ? "
                "AND json_extract(data, '$.crashes') = 0 AND json_extract(data, '$.died') IS NULL",
                *(first, kind, subject),
            ).fetchone()
            first = (before or 0) + 1
        # A relaunch of a program that keeps dying is a success too.
        well = "AND detail = 'is well again'" if kind == "target" else ""
        (last,) = self.run(
            f"SELECT min(id) FROM events WHERE id > ? AND kind = ? AND subject = ? AND status = 'success' {well}",  # noqa: S608
            *(first, kind, subject),
        ).fetchone()
        return first, last or _NO_END, kind, subject

    def event(self, run_id: str) -> dict[str, Any] | None:
        row = self.run(
            "SELECT id, run_id, at, kind, subject, status, detail, data FROM events WHERE run_id = ?", run_id
        ).fetchone()
        with readable(self.path):
            return self._shown(*row) if row else None

    def _shown(self, *row: Any) -> dict[str, Any]:
        event_id, run_id, at, kind, subject, status, detail, data = row
        deliveries = self.run(
            "SELECT destination, state, tries, error, error_code, next_try, delivered_at FROM deliveries "
            "WHERE event_id = ? ORDER BY id",
            event_id,
        ).fetchall()
        names = ("destination", "state", "tries", "error", "error_code", "next_try", "delivered_at")
        arrived: dict[str, bool] = {}
        for delivery in deliveries:
            arrived[delivery[0]] = arrived.get(delivery[0], True) and delivery[1] == "delivered"
        return {
            "at": datetime.fromisoformat(at).astimezone().isoformat(timespec="milliseconds"),
            "kind": kind,
            "run_id": run_id,
            kind if kind in ("check", "target", "refresh") else "subject": subject,
            "status": status,
            "detail": detail,
            "delivered": arrived,
            "deliveries": [dict(zip(names, delivery, strict=True)) for delivery in deliveries],
            **msgspec.json.decode(data),
        }

    def outcomes(self, wanted: Wanted, *, limit: int) -> list[Event]:
        """The newest events of a kind and subject, without their deliveries; oldest first."""
        rows = self.run(
            f"SELECT {_EVENT} FROM events WHERE kind = ? AND subject = ? ORDER BY id DESC LIMIT ?",  # noqa: S608
            *(wanted.kind, wanted.subject, limit),
        ).fetchall()
        with readable(self.path):
            return [_event(row) for row in reversed(rows)]

    def last_id(self) -> int:
        """The id of the newest event; 0 if there is none."""
        return int(self.run("SELECT ifnull(max(id), 0) FROM events").fetchone()[0])

    def newest(self, limit: int) -> list[Event]:
        """The newest events, without their deliveries; newest first."""
        rows = self.run(f"SELECT {_EVENT} FROM events ORDER BY id DESC LIMIT ?", limit).fetchall()  # noqa: S608
        with readable(self.path):
            return [_event(row) for row in rows]

    def last_deaths(self) -> dict[str, Event]:
        """The last death of each target that is still in the journal."""
        rows = self.run(
            f"SELECT {_EVENT} FROM events WHERE id IN "  # noqa: S608
            "(SELECT max(id) FROM events WHERE kind = 'target' AND json_extract(data, '$.died') GROUP BY subject)"
        ).fetchall()
        with readable(self.path):
            return {str(row[3]): _event(row) for row in rows}

    def oldest_open(self, destination: str) -> datetime:
        """When the oldest event happened that a destination has not got yet; only if there is one."""
        (at,) = self.run(
            "SELECT at FROM events WHERE id = (SELECT event_id FROM deliveries WHERE state != 'delivered' AND "
            "destination = ? ORDER BY id LIMIT 1)",
            destination,
        ).fetchone()
        with readable(self.path):
            return datetime.fromisoformat(at)

    def totals(self, kind: str) -> dict[str, Totals]:
        """What has been counted for each subject; it outlives the events."""
        rows = self.run("SELECT subject, relaunches, down_s FROM totals WHERE kind = ?", kind)
        return {str(subject): Totals(int(relaunches), float(down_s)) for subject, relaunches, down_s in rows}

    def count(self, kind: str, subject: str, more: Totals) -> None:
        """Add to the totals of a subject; only inside a transaction."""
        # Two statements: "upsert" needs SQLite 3.24, and a Python may use an older one of its system.
        self.run("INSERT OR IGNORE INTO totals VALUES (?, ?, 0, 0)", kind, subject)
        self.run(
            "UPDATE totals SET relaunches = relaunches + ?, down_s = down_s + ? WHERE kind = ? AND subject = ?",
            *(more.relaunches, more.down_s, kind, subject),
        )

    def last_delivery(self, destination: str) -> datetime | None:
        row = self.run(
            "SELECT max(delivered_at) FROM deliveries WHERE destination = ? AND state = 'delivered'", destination
        ).fetchone()
        return _moment(row[0])

    def remember(self, name: str, value: str) -> None:
        """Keep the newest value of a fact. Nothing is written if the value is the same."""
        if self.recall(name) != value:
            self.run("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)

    def recall(self, name: str) -> str | None:
        row = self.run("SELECT value FROM facts WHERE name = ?", name).fetchone()
        return str(row[0]) if row else None

    def salt(self) -> str:
        """A random text made once for each journal."""
        with self.transaction():
            self.run("INSERT OR IGNORE INTO facts VALUES ('salt', ?)", os.urandom(16).hex())
        return self.recall("salt") or ""

    def prune(self, now: datetime) -> None:
        """Remove some old events that have nothing pending, at most 500 a time; only inside a transaction."""
        old = stamp(now - timedelta(days=KEEP_DAYS))
        self.run("CREATE TEMP TABLE IF NOT EXISTS pruned (id INTEGER PRIMARY KEY)")
        self.run("DELETE FROM pruned")
        self.run(
            "INSERT INTO pruned SELECT id FROM events WHERE "
            "((at < ?1 AND id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?3)) "
            "OR id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?2)) AND NOT EXISTS "
            "(SELECT 1 FROM deliveries WHERE event_id = events.id AND state != 'delivered') ORDER BY id LIMIT 500",
            *(old, KEEP_EVENTS, KEEP_ANYWAY),
        )
        self.run("DELETE FROM deliveries WHERE event_id IN (SELECT id FROM pruned)")
        self.run("DELETE FROM events WHERE id IN (SELECT id FROM pruned)")
        oldest = (now - timedelta(days=KEEP_DAYS)).timestamp()
        self.run(
            "DELETE FROM spans WHERE id IN (SELECT id FROM spans WHERE "
            "(until < ?1 AND id <= (SELECT id FROM spans ORDER BY id DESC LIMIT 1 OFFSET ?3)) "
            "OR id <= (SELECT id FROM spans ORDER BY id DESC LIMIT 1 OFFSET ?2) ORDER BY id LIMIT 500)",
            *(oldest, KEEP_SPANS, KEEP_ANYWAY),
        )

    def probe(self) -> None:
        """Write something, to find out whether the journal can be written."""
        with self.transaction():
            self.run("INSERT OR REPLACE INTO facts VALUES ('probe', ?)", os.urandom(4).hex())

    def check_integrity(self) -> str:
        """``ok``, or the damage that SQLite finds."""
        return str(self.run("PRAGMA quick_check(1)").fetchone()[0])


def _event(row: Sequence[Any]) -> Event:
    run_id, at, kind, subject, status, detail, data = row
    return Event(run_id, datetime.fromisoformat(at), kind, subject, status, detail, msgspec.json.decode(data))


def _json(value: object) -> str:
    return msgspec.json.encode(printable_all(value)).decode()


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


DELIVERY_FIRST_S = 30.0

DELIVERY_CAP_S = 3600.0
