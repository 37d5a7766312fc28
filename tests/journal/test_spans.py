"""How the past of a target is kept, and what is said about it."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restart_guard.errors import JournalError
from restart_guard.journal import file, spans
from restart_guard.journal.journal import KEEP_DAYS, KEEP_SPANS, Event, Journal, Wanted
from restart_guard.journal.spans import Span

DAY = 86400.0
KIND = "target"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "state") as one:
        yield one


def look(journal: Journal, state: str, at: float, *, is_exact: bool = False, name: str = "web") -> None:
    with journal.transaction():
        spans.look(journal, KIND, {name: state}, at, is_exact=is_exact)


def past(journal: Journal, name: str = "web") -> list[tuple[str, float, float]]:
    return [tuple(one) for one in spans.read(journal, KIND).get(name, [])]  # type: ignore[misc]


def test_looks_make_spans(journal: Journal) -> None:
    """Each extends the last one; a change counts from the middle, or from the moment that is known."""
    for at in (1000.0, 1060.0, 1120.0):
        look(journal, "running", at)
    look(journal, "dead", 1180.0)
    look(journal, "running", 1181.0, is_exact=True)
    look(journal, "running", 1240.0)
    assert past(journal) == [("running", 1000.0, 1150.0), ("dead", 1150.0, 1181.0), ("running", 1181.0, 1240.0)]
    assert journal.totals(KIND)["web"].down_s == 31.0


def test_nobody_looked(journal: Journal) -> None:
    """A time without looks stays a gap; so does a clock that was set back."""
    look(journal, "running", 1000.0)
    look(journal, "running", 1060.0)
    look(journal, "running", 1060.0 + 151)
    look(journal, "running", 1060.0 + 200)
    look(journal, "running", 500.0)
    assert past(journal) == [("running", 1000.0, 1060.0), ("running", 1211.0, 1260.0), ("running", 500.0, 500.0)]
    up = spans.uptime([Span(*one) for one in past(journal)[:2]], 0.0, 2000.0)
    assert (up.since, up.up_s, up.percent, up.unknown_s) == (1000.0, 109.0, 100.0, 891.0)


def test_a_watch_tells_the_moments(journal: Journal) -> None:
    """What was seen before or meanwhile gives way to them, and no second counts twice."""
    for at in (1000.0, 1060.0):
        look(journal, "running", at)
    look(journal, "backoff", 1100.0)  # a tick in between
    with journal.transaction():
        spans.down(journal, KIND, "web", 1070.0, 1110.0)
    look(journal, "running", 1120.0)
    assert past(journal) == [("running", 1000.0, 1070.0), ("dead", 1070.0, 1110.0), ("running", 1110.0, 1120.0)]
    assert journal.totals(KIND)["web"].down_s == 40.0
    with journal.transaction():
        spans.down(journal, KIND, "web", 1121.0, 1121.002)
    up = spans.uptime([Span(*one) for one in past(journal)], 0.0, 1121.002)
    assert (up.outages, round(up.down_s, 3), up.longest_s) == (2, 40.002, 40.0)


def test_a_look_that_comes_late_changes_nothing(journal: Journal) -> None:
    """A tick looks, works for a while and writes then; a watch, or another tick, has written meanwhile."""
    for at in (60.0, 119.0):
        look(journal, "running", at)
    with journal.transaction():
        spans.down(journal, KIND, "web", 119.0, 120.05)
    look(journal, "backoff", 120.0)
    look(journal, "running", 180.0)
    assert past(journal) == [("running", 60.0, 119.0), ("dead", 119.0, 120.05), ("running", 120.05, 180.0)]
    assert round(journal.totals(KIND)["web"].down_s, 2) == 1.05


def test_a_loop_of_crashes_is_down_all_the_time(journal: Journal) -> None:
    """Dead, waiting, dead, waiting: what is counted is what the spans say."""
    for number, state in enumerate(["running", "dead", "backoff", "dead", "backoff", "running"]):
        look(journal, state, number * 60.0 + 60)
    found = spans.uptime(spans.read(journal, KIND)["web"], 0.0, 1000.0)
    assert journal.totals(KIND)["web"].down_s == found.down_s == 240.0


def test_what_was_not_meant_to_run_was_not_down(journal: Journal) -> None:
    """A watch has seen the end hours ago; another host of the group led since."""
    look(journal, "running", 1000.0)
    for minute in range(1, 180):
        look(journal, "standby", 1000.0 + minute * 60)
    with journal.transaction():
        spans.down(journal, KIND, "web", 1010.0, 1000.0 + 180 * 60)
    found = spans.uptime(spans.read(journal, KIND)["web"], 0.0, 20_000.0)
    assert found.down_s <= 60
    assert journal.totals(KIND)["web"].down_s <= 60


@given(
    st.lists(st.tuples(st.sampled_from(["running", "dead", "stopped"]), st.floats(0.1, 300)), max_size=20), st.data()
)
def test_totals_never_fall(looks: list[tuple[str, float]], data: st.DataObject) -> None:
    """Whatever is seen and told in whatever order, and the spans of a subject never overlap."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in file._statements(file._SCHEMA + file._SPANS):
        connection.execute(statement)
    journal, at, total = Journal(Path("x"), connection), 1000.0, 0.0
    for state, seconds in looks:
        at += seconds
        if data.draw(st.booleans()):
            look(journal, state, at)
        else:
            with journal.transaction():
                spans.down(journal, KIND, "web", at - data.draw(st.floats(0, 500)), at)
        found = journal.totals(KIND).get("web")
        assert found is None or found.down_s >= total
        total = 0.0 if found is None else found.down_s
        known = past(journal)
        assert all(since <= until for _, since, until in known)
        assert all(one[2] <= other[1] for one, other in pairwise(known))
    connection.close()


def test_windows_and_bars() -> None:
    """Stops are no outages; a part of which nothing is known is no zero."""
    week = [Span("running", 0.0, 3 * DAY), Span("dead", 3 * DAY, 3.5 * DAY), Span("stopped", 3.5 * DAY, 4 * DAY)]
    week += [Span("running", 6 * DAY, 7 * DAY)]
    up = spans.uptime(week, 1 * DAY, 8 * DAY, parts=7)
    assert (up.up_s, up.down_s, up.unknown_s, up.outages) == (3 * DAY, 0.5 * DAY, 3 * DAY, 1)
    assert up.bars == (1.0, 1.0, 0.0, None, None, 1.0, None)
    assert round(up.percent or 0, 2) == 85.71
    assert spans.uptime([], 0.0, 10.0).percent is None


def test_old_spans_are_pruned(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those older than the events are kept, and the oldest beyond a number; the newest stay, for a clock may be wrong
    once."""
    monkeypatch.setattr("restart_guard.journal.journal.KEEP_ANYWAY", 6)
    now = datetime(2026, 6, 1, tzinfo=UTC)
    old = now.timestamp() - KEEP_DAYS * DAY
    with journal.transaction():
        for number in range(20):
            spans._add(journal, KIND, "web", Span("running", old - 50 + number * 5, old - 46 + number * 5))
        journal.prune(now)
    assert len(past(journal)) == 10
    monkeypatch.setattr("restart_guard.journal.journal.KEEP_SPANS", 4)
    with journal.transaction():
        journal.prune(now)
    assert len(past(journal)) == 4
    with journal.transaction():
        journal.prune(datetime(2030, 1, 1, tzinfo=UTC))
    assert len(past(journal)) == 4
    assert KEEP_SPANS > 1000


def old_journal(folder: Path) -> Path:
    """As schema 1 made it, with two relaunches and a death."""
    folder.mkdir()
    connection = sqlite3.connect(folder / "journal.db", isolation_level=None)
    for statement in file._statements(file._SCHEMA):
        connection.execute(statement)
    for number, data in enumerate(['{"relaunch": true}', '{"relaunch": true}', '{"relaunch": false, "died": true}']):
        connection.execute(
            "INSERT INTO events (run_id, at, kind, subject, status, detail, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (f"r{number}", "2026-01-01T00:00:00.000+00:00", KIND, "web", "success", "x", data),
        )
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    return folder / "journal.db"


def test_an_old_journal_is_migrated(tmp_path: Path) -> None:
    """With its relaunches counted; who only reads it changes nothing, and sees the same."""
    path = old_journal(tmp_path / "state")
    before = path.read_bytes()
    reading = Journal.open_to_read(tmp_path / "state")
    assert reading is not None
    with reading:
        assert (reading.totals(KIND)["web"].relaunches, past(reading)) == (2, [])
        assert list(reading.last_deaths()) == ["web"]
    assert path.read_bytes() == before
    with Journal.open(tmp_path / "state") as journal:
        look(journal, "running", 1000.0)
        assert journal.totals(KIND)["web"].relaunches == 2
        assert journal.last_deaths()["web"].run_id == "r2"
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (2,)


@pytest.mark.process
def test_many_migrate_at_once(tmp_path: Path) -> None:
    """Ticks, a watch and a check that start together after an upgrade."""
    old_journal(tmp_path / "state")
    code = "from pathlib import Path; from restart_guard.journal.journal import Journal; Journal.open(Path('state'))"
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) for _ in range(8)]
    assert [one.wait() for one in running] == [0] * 8
    with Journal.open(tmp_path / "state") as journal:
        assert journal.totals(KIND)["web"].relaunches == 2


def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    """By whoever reads and whoever writes."""
    with Journal.open(tmp_path) as journal:
        journal.run(f"PRAGMA user_version = {file.SCHEMA_VERSION + 1}")
    for opening in (Journal.open, Journal.open_to_read):
        with pytest.raises(JournalError, match="newer restart-guard"):
            opening(tmp_path)


def test_events_keep_their_particulars(journal: Journal) -> None:
    """As they are read for reports, oldest first."""
    for number in range(3):
        event = Event(
            f"r{number}", datetime(2026, 1, 1 + number, tzinfo=UTC), "check", "c", "success", "d", {"n": number}
        )
        with journal.transaction():
            journal.append(event, [])
    assert [one.data["n"] for one in journal.outcomes(Wanted(kind="check", subject="c"), limit=2)] == [1, 2]
    assert [one.run_id for one in journal.newest(2)] == ["r2", "r1"]
