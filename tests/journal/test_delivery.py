"""Nothing is lost and nothing doubled on the way to MySQL and WeCom, whatever they do."""

import signal
import sqlite3
import time

import pytest

from tests.conftest import Database, Guard, job
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import MariaDb, MySql, RedisServer, free_port, resume

FAILING = "retries = 0"


@pytest.mark.parametrize("kind", [MariaDb, MySql])
def test_a_dead_mysql_delays_nothing_else_and_loses_nothing(
    guard: Guard, redis_server: RedisServer, wecom: FakeWeCom, kind: type[MariaDb]
) -> None:
    """The alert goes out; the row waits, is tried by every run, and arrives once when MySQL is back."""
    with kind() as server:
        database = Database(server, "irm")
        guard.configure(job(redis_server, database, wecom, FAILING))
        done = guard("check-redis", "--json")
        assert done.code == 1
        assert done.json[0]["delivered"] == {"mysql": False, "wecom": True}
        assert "mysql: 1 delivery is pending; every run tries again." in done.err
        server.start().run("CREATE DATABASE irm CHARACTER SET utf8mb4")
        database.make_six_columns()
        assert guard("check-redis", "--json").json[0]["delivered"] == {"mysql": True}
        assert database.statuses() == ["失败", "失败"]
        assert guard("deliver").code == 0
        assert len(wecom.messages) == 1


def test_both_hanging_add_at_most_ten_seconds(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom
) -> None:
    """Each has its own thread and deadline; the outcome is safe before."""
    database.make_six_columns()
    guard.configure(job(redis_server, database, wecom, FAILING))
    wecom.script += ["hang"]
    database.server.signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        done = guard("check-redis", "--json")
        took = time.monotonic() - begun
    finally:
        resume(database.server.process)
    assert done.json[0]["delivered"] == {"mysql": False, "wecom": False}
    assert took < 12
    assert guard("deliver").code == 0
    assert database.statuses() == ["失败"]
    assert len(wecom.messages) == 1


@pytest.mark.parametrize("fault", ["502", "html", "half", "drop", "drop-after", "empty", "redirect", -1, 45009])
def test_an_alert_outlives_every_fault_of_wecom(
    guard: Guard, redis_server: RedisServer, wecom: FakeWeCom, fault: int | str
) -> None:
    """At least once: where the answer was lost, the message may come twice, told by its number."""
    guard.configure(job(redis_server, None, wecom, FAILING))
    wecom.script += [fault]
    assert guard("check-redis", "--json").json[0]["delivered"] == {"wecom": False}
    assert guard("deliver").code == 0
    assert len(set(wecom.texts)) == 1
    assert len(wecom.messages) == (2 if fault in ("half", "drop-after") else 1)
    assert guard.history()[0]["delivered"] == {"wecom": True}


def test_a_rate_limit_is_respected_by_runs(guard: Guard, redis_server: RedisServer, wecom: FakeWeCom) -> None:
    """WeCom asked for a minute of silence; a run keeps it, a person's own deliver does not need to."""
    guard.configure(job(redis_server, None, wecom, FAILING))
    wecom.script += [45009]
    guard("check-redis")
    guard("check-redis")
    assert len(wecom.requests) == 1
    assert guard("deliver").code == 0
    assert len(wecom.messages) == 1


def test_a_permanent_error_waits_for_a_person(guard: Guard, redis_server: RedisServer, wecom: FakeWeCom) -> None:
    """It stays visible with what to do, is not tried in vain, and goes out after the config changed."""
    good = job(redis_server, None, wecom, FAILING)
    guard.configure(good.replace("good-webhook-key-0001", "wrong-webhook-key-01"))
    done = guard("check-redis")
    assert "93000" in done.err
    assert "check [wecom] webhook" in done.err
    assert len(wecom.requests) == 1
    shown = guard.history()[0]["deliveries"][0]
    assert (shown["state"], shown["error_code"]) == ("blocked", "93000")
    doctor = guard("doctor")
    assert doctor.code == 1
    assert "fail  1 delivery to wecom blocked" in doctor.out
    assert "restart-guard deliver --all" in doctor.out
    assert guard("deliver").code == 1
    assert len(wecom.requests) == 1
    assert guard("deliver", "--all").code == 1
    assert len(wecom.requests) == 2
    guard.configure(good)
    assert guard("deliver").code == 0
    assert len(wecom.messages) == 1


def test_a_tick_does_not_try_a_wrong_password_every_minute(
    guard: Guard, redis_server: RedisServer, wecom: FakeWeCom
) -> None:
    """With several alerts blocked: one try for each new one, none by ticks; all go out when the config is right."""
    good = job(redis_server, None, wecom, FAILING).replace("[checks", 'repeat_interval = "0s"\n[checks')
    guard.configure(good.replace("good-webhook-key-0001", "wrong-webhook-key-01"))
    for runs in (1, 2, 3):
        guard("check-redis")
        assert len(wecom.requests) == runs
    for _ in range(3):
        assert guard("restart").code == 0
    assert len(wecom.requests) == 3
    guard.configure(good)
    assert guard("restart").code == 0
    assert [text[:4] for text in wecom.texts] == ["【故障】", "【仍未恢", "【仍未恢"]


def test_what_was_mended_elsewhere_is_noticed_by_the_next_message(
    guard: Guard, redis_server: RedisServer, wecom: FakeWeCom
) -> None:
    """A new message is tried once; when it arrives, those that were blocked follow."""
    guard.configure(job(redis_server, None, wecom, FAILING))
    wecom.keys.clear()
    guard("check-redis")
    wecom.keys.add("good-webhook-key-0001")
    with redis_server.client() as client:
        client.set("your_data_key", "x")
    guard("check-redis")
    assert sorted(text[:4] for text in wecom.texts) == ["【恢复】", "【故障】"]


def test_a_row_that_no_table_takes_does_not_hold_up_the_next(
    guard: Guard, redis_server: RedisServer, database: Database
) -> None:
    """A row that the table refuses is blocked, and later rows arrive."""
    database.run(
        "CREATE TABLE task_monitor (task_description VARCHAR(255), task_status ENUM('成功','失败'), "
        "CHECK (task_status = '成功')) CHARSET=utf8mb4"
    )
    guard.configure(job(redis_server, database, None, FAILING))
    assert guard("check-redis", "--json").json[0]["delivered"] == {"mysql": False}
    with redis_server.client() as client:
        client.set("your_data_key", "x")
    assert guard("check-redis", "--json").json[0]["delivered"] == {"mysql": True}
    assert [event["delivered"]["mysql"] for event in guard.history()] == [True, False]


def test_rows_wait_for_a_table_that_is_made_later(guard: Guard, redis_server: RedisServer, database: Database) -> None:
    """init-db and deliver --all bring the row that had no table."""
    guard.configure(job(redis_server, database, None, FAILING))
    done = guard("check-redis")
    assert "does not exist, or this user may not see it; restart-guard init-db creates it." in done.err
    assert guard("init-db").code == 0
    assert guard("deliver", "--all").code == 0
    assert database.statuses() == ["失败"]


def test_a_destination_that_left_the_config_is_told(
    guard: Guard, redis_server: RedisServer, database: Database
) -> None:
    """A row for a MySQL that the config no longer has is reported by name."""
    guard.configure(job(redis_server, database, None, FAILING))
    guard("check-redis")
    guard.configure(job(redis_server, None, None, FAILING))
    done = guard("deliver", "--all")
    assert done.code == 1
    assert "The config has no mysql any more." in done.err


def test_only_one_process_delivers(guard: Guard, redis_server: RedisServer, wecom: FakeWeCom) -> None:
    """Two at once would send the same message twice: the second exits 75."""
    guard.configure(job(redis_server, None, wecom, FAILING))
    wecom.script += ["502", "hang"]
    guard("check-redis")
    with guard.popen("deliver") as first:
        while len(wecom.requests) < 2:
            time.sleep(0.01)
        assert guard("deliver").code == 75
        first.kill()
    assert guard("deliver").code == 0
    assert len(wecom.messages) == 1


def test_many_pending_rows_arrive_in_order(guard: Guard, redis_server: RedisServer, database: Database) -> None:
    """The oldest row is delivered first."""
    guard.configure(job(redis_server, database, None, FAILING).replace(str(database.server.socket), "/nowhere.sock"))
    for _ in range(3):
        guard("check-redis")
    database.make_six_columns()
    guard.configure(job(redis_server, database, None, FAILING))
    done = guard("deliver")
    assert "mysql: 3 delivered" in done.out
    times = [row[0] for row in database.run("SELECT task_execution_time FROM task_monitor ORDER BY task_id")]
    assert times == sorted(times)


def test_backoff_is_kept_in_the_journal(guard: Guard, redis_server: RedisServer, database: Database) -> None:
    """The next try is later after each failure, also across processes."""
    text = job(redis_server, database, None, FAILING).replace(
        f'socket = "{database.server.socket}"', f"port = {free_port()}"
    )
    guard.configure(text)
    guard("check-redis")
    guard("deliver")
    connection = sqlite3.connect(guard.state / "journal.db")
    tries, at, next_try = connection.execute(
        "SELECT tries, events.at, next_try FROM deliveries JOIN events ON events.id = event_id"
    ).fetchone()
    connection.close()
    assert tries == 2
    assert next_try > at
