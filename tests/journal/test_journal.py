"""The journal: durable, append-only, bounded, safe between processes, readable by others."""

import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from restart_guard.errors import JournalError
from restart_guard.journal.incident import Incident
from restart_guard.journal.journal import KEEP_ANYWAY, KEEP_EVENTS, Event, Journal, Wanted
from tests.conftest import Guard, job
from tests.support.servers import RedisServer

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)


def event(number: int, at: datetime = NOW) -> Event:
    return Event(f"run-{number}", at, "check", "metadata", "failure", "键 missing", {"reads": 4})


def add(journal: Journal, number: int, *destinations: str, at: datetime = NOW) -> None:
    with journal.transaction():
        journal.append(event(number, at), [(name, {"text": "文"}) for name in destinations])


def test_an_event_and_its_deliveries_come_together(tmp_path: Path) -> None:
    """One transaction writes both, and history shows what has arrived."""
    with Journal.open(tmp_path) as journal:
        add(journal, 1, "mysql", "wecom")
        (shown,) = journal.history(Wanted(kind="check", subject="metadata"), limit=5)
    assert shown["run_id"] == "run-1"
    assert shown["check"] == "metadata"
    assert shown["delivered"] == {"mysql": False, "wecom": False}
    assert datetime.fromisoformat(shown["at"]) == NOW


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Neither the event nor its first delivery is left."""
    with Journal.open(tmp_path) as journal:
        with pytest.raises(TypeError), journal.transaction():
            journal.append(event(1), [("mysql", {}), ("wecom", object())])
        assert journal.history(Wanted(), limit=5) == []
        assert journal.undelivered() == []


def test_a_next_try_beyond_any_delay_means_that_the_clock_was_set_back(tmp_path: Path) -> None:
    """It is due at once; one within the longest delay is not, and holds up what waits behind it."""
    with Journal.open(tmp_path) as journal:
        add(journal, 1, "wecom")
        add(journal, 2, "wecom")
        assert journal.is_due("wecom", NOW)
        for seconds, due in ((0, True), (1, False), (3600, False), (3601, True)):
            journal.failed(1, "no answer", "timeout", NOW + timedelta(seconds=seconds), None)
            assert journal.is_due("wecom", NOW) is due
            assert journal.is_due("wecom", NOW, silence_only=True)


def test_what_waits_is_counted_and_blocked_without_being_read(tmp_path: Path) -> None:
    """Ten thousand deliveries that wait cost as much as ten; a wrong password blocks all of them in one step."""
    with Journal.open(tmp_path) as journal:
        with journal.transaction():
            for number in range(1, 301):
                journal.append(event(number), [("mysql", {"number": number}), ("wecom", {})][: 1 + (number < 3)])
        assert journal.open_destinations() == ["mysql", "wecom"]
        first, *_ = journal.undelivered("mysql", limit=10)
        assert [item.payload["number"] for item in journal.undelivered("mysql", after=first.id, limit=2)] == [2, 3]
        journal.block(first, "wrong password", "1045", "mark", all_behind=True)
        assert journal.open_states("mysql") == {"blocked": 300}
        assert journal.open_states("wecom") == {"pending": 2}
        assert journal.undelivered("mysql", unlike="mark") == []
        assert len(journal.undelivered("mysql", unlike="another")) == 300
        assert journal.why_waiting("mysql", "blocked") == "wrong password"
        assert sum(item.tries for item in journal.undelivered("mysql")) == 1


def test_a_delivery_goes_from_pending_over_blocked_to_delivered(tmp_path: Path) -> None:
    """Each step keeps its tries, error and next try."""
    with Journal.open(tmp_path) as journal:
        add(journal, 1, "wecom")
        (item,) = journal.undelivered("wecom")
        journal.failed(item.id, "no answer", "timeout", NOW + timedelta(seconds=30), None)
        (item,) = journal.undelivered("wecom")
        assert (item.state, item.tries, item.next_try) == ("pending", 1, NOW + timedelta(seconds=30))
        journal.block(item, "wrong key", "93000", "mark", all_behind=False)
        (item,) = journal.undelivered()
        assert (item.state, item.tries, item.error, item.config_mark) == ("blocked", 2, "wrong key", "mark")
        journal.delivered(item.id, NOW)
        assert journal.undelivered() == []
        assert journal.last_delivery("wecom") == NOW


def test_events_are_append_only(tmp_path: Path) -> None:
    """A trigger refuses to change an event, whoever tries."""
    with Journal.open(tmp_path) as journal:
        add(journal, 1)
    with (
        sqlite3.connect(tmp_path / "journal.db") as connection,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        connection.execute("UPDATE events SET status = 'success'")
    connection.close()


def test_an_incident_is_kept_and_ended(tmp_path: Path) -> None:
    """It survives unchanged until it is removed."""
    incident = Incident("id", NOW, 2, 1, NOW)
    with Journal.open(tmp_path) as journal:
        with journal.transaction():
            journal.set_incident("check", "a", incident)
        assert journal.incident("check", "a") == incident
        with journal.transaction():
            journal.set_incident("check", "a", None)
        assert journal.incident("check", "a") is None


def test_old_delivered_events_are_pruned_and_pending_ones_never(tmp_path: Path) -> None:
    """Beyond the newest 10,000, or older than 400 days beyond the newest 1,000, unless something is pending."""

    def kept(journal: Journal) -> list[str]:
        return [found["run_id"] for found in journal.history(Wanted(), limit=KEEP_EVENTS + 9)]

    with Journal.open(tmp_path) as journal:
        add(journal, 1, "mysql", at=NOW - timedelta(days=500))
        add(journal, 2, at=NOW - timedelta(days=500))
        with journal.transaction():
            journal.prune(NOW)
        assert kept(journal) == ["run-2", "run-1"]
        with journal.transaction():
            for number in range(10, 10 + KEEP_ANYWAY):
                journal.append(event(number), [])
            journal.prune(NOW)
        assert kept(journal)[-2:] == ["run-10", "run-1"]
        with journal.transaction():
            for number in range(2000, 2000 + KEEP_EVENTS - KEEP_ANYWAY + 5):
                journal.append(event(number), [])
            journal.prune(NOW)
        assert kept(journal)[-2:] == ["run-15", "run-1"]


@pytest.mark.parametrize("damage", ["deliveries SET payload = 'x'", "deliveries SET next_try = 'soon'"])
def test_a_damaged_value_is_a_sentence(tmp_path: Path, damage: str) -> None:
    """A stored value that makes no sense raises JournalError, not a traceback."""
    with Journal.open(tmp_path) as journal:
        add(journal, 1, "mysql")
    connection = sqlite3.connect(tmp_path / "journal.db")
    connection.execute(f"UPDATE {damage}")
    connection.commit()
    connection.close()
    with Journal.open(tmp_path) as journal, pytest.raises(JournalError, match="holds a value that cannot be read"):
        journal.undelivered()


def test_a_fact_keeps_its_newest_value_only(tmp_path: Path) -> None:
    """An unknown fact is None, and the salt is made once."""
    with Journal.open(tmp_path) as journal:
        journal.remember("redis.danger", "x")
        journal.remember("redis.danger", "y")
        assert journal.recall("redis.danger") == "y"
        assert journal.recall("other") is None
        assert journal.salt() == journal.salt() != ""


@pytest.mark.process
def test_the_sqlite3_shell_reads_it(tmp_path: Path) -> None:
    """An operator can query the journal with the usual tool."""
    with Journal.open(tmp_path) as journal:
        add(journal, 1, "mysql")
    query = "SELECT run_id, detail, state FROM events JOIN deliveries ON event_id = events.id"
    done = subprocess.run(
        ["sqlite3", tmp_path / "journal.db", query], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == "run-1|键 missing|pending\n"


@pytest.mark.process
def test_many_processes_write_at_once(tmp_path: Path) -> None:
    """Twenty processes that make the same new journal and write to it lose nothing."""
    script = (
        "import sys; from pathlib import Path; from restart_guard.journal.journal import Journal;"
        "from tests.journal.test_journal import add\n"
        "with Journal.open(Path(sys.argv[1])) as j:\n"
        "    for n in range(5): add(j, int(sys.argv[2]) * 100 + n, 'mysql')\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, tmp_path, str(n)]) for n in range(20)]
    assert [process.wait(60) for process in processes] == [0] * 20
    with Journal.open(tmp_path) as journal:
        assert len(journal.undelivered()) == 100
        assert journal.check_integrity() == "ok"


def test_a_writer_waits_for_another(tmp_path: Path) -> None:
    """A transaction that takes a while delays the next one; it does not fail it."""
    with Journal.open(tmp_path) as journal:
        inside, done = threading.Event(), threading.Event()

        def second() -> None:
            inside.wait()
            with Journal.open(tmp_path) as other:
                add(other, 2)
            done.set()

        thread = threading.Thread(target=second)
        thread.start()
        with journal.transaction():
            inside.set()
            assert not done.wait(0.2)
            journal.append(event(1), [])
        thread.join()
        assert len(journal.history(Wanted(), limit=9)) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"this is no database, it is a text file " * 30, "is damaged"), (None, "newer restart-guard")],
)
def test_a_file_that_cannot_be_used_is_a_sentence(tmp_path: Path, content: bytes | None, words: str) -> None:
    """Garbage and a newer schema are refused with advice, and the file is not changed."""
    path = tmp_path / "journal.db"
    if content is None:
        with Journal.open(tmp_path):
            pass
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=words):
        Journal.open(tmp_path)
    assert path.read_bytes() == before


def test_a_place_where_no_journal_can_be_is_a_sentence(tmp_path: Path) -> None:
    """A file in place of the folder is an error; a folder without a journal is none."""
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"cannot be opened: (Not a directory|File exists)"):
        Journal.open(tmp_path / "file")
    assert Journal.open_to_read(tmp_path / "nothing") is None


def test_it_is_private(tmp_path: Path) -> None:
    """Only its owner can read the state directory and the journal."""
    with Journal.open(tmp_path / "state"):
        pass
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state/journal.db").stat().st_mode & 0o777 == 0o600


def test_history_by_incident_time_and_failure(guard: Guard, redis_server: RedisServer) -> None:
    """The number that stands in an alert finds all its events, to the one that ended it."""
    guard.configure(job(redis_server, None, None, "retries = 0"))
    for value in (None, None, "[1]", None):
        with redis_server.client() as client:
            client.delete("your_data_key")
            if value is not None:
                client.set("your_data_key", value)
        guard("check-redis")
    events = guard.history()
    assert [event["status"] for event in events] == ["failure", "success", "failure", "failure"]
    number = events[-1]["run_id"][:8]
    found = guard("history", "--incident", number, "--json").json
    assert [event["run_id"] for event in found] == [event["run_id"] for event in events[1:]]
    assert [event["status"] for event in guard("history", "--failed", "--json").json] == ["failure"] * 3
    assert len(guard("history", "--since", "1h", "--json").json) == 4
    assert guard("history", "--since", "1ms", "--json").json == []
    assert guard("history", "--incident", "00000000").err.endswith("no events that are wanted here.\n")
    assert guard("history", "--since", "soon").code == 2
