"""The weekly job from the command line, on real servers."""

import json
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Database, Guard, job
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import RedisServer, free_port, resume, wait_until
from tests.support.services import PROGRAMS

COMMAND = "recover = \"command:sh -c 'echo attempt >> attempts'\""


def attempts(guard: Guard) -> int:
    log = guard.directory / "attempts"
    return len(log.read_text().splitlines()) if log.exists() else 0


def put(redis_server: RedisServer, value: str = '{"a": 1}') -> None:
    with redis_server.client() as client:
        client.set("your_data_key", value)


def reads(redis_server: RedisServer) -> int:
    """How often the script was run: once for each read of the check."""
    with redis_server.client() as client:
        return int(client.info("commandstats").get("cmdstat_eval", {}).get("calls", 0))


def test_the_whole_job(guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom) -> None:
    """Good: a 成功 row, no alert, exit 0. Missing: 4 reads, a 失败 row, an alert, exit 1. Good again: a recovery."""
    database.make_six_columns()
    guard.configure(job(redis_server, database, wecom, COMMAND))
    put(redis_server)
    good = guard("check-redis")
    assert (good.code, good.err) == (0, "")
    assert database.statuses() == ["成功"]
    assert wecom.messages == []

    with redis_server.client() as client:
        client.delete("your_data_key")
    before = reads(redis_server)
    bad = guard("check-redis")
    assert bad.code == 1
    assert reads(redis_server) - before == 4
    assert attempts(guard) == 3
    assert database.statuses() == ["成功", "失败"]
    (alert,) = wecom.messages
    assert alert["text"]["mentioned_mobile_list"] == ["13800001111"]
    first_line = alert["text"]["content"].splitlines()[0]
    assert first_line.startswith(
        "【故障】Redis 数据 metadata：1 个键中 1 个异常（your_data_key 不存在），3 次重启尝试均失败 | "
    )

    put(redis_server)
    assert guard("check-redis").code == 0
    assert database.statuses() == ["成功", "失败", "成功"]
    assert len(wecom.messages) == 2
    assert "已恢复正常，故障持续" in wecom.texts[1]
    assert "mentioned_mobile_list" not in wecom.messages[1]["text"]
    assert guard("check-redis").code == 0
    assert len(wecom.messages) == 2


def test_a_recovery_that_helps_ends_the_attempts(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom
) -> None:
    """The second attempt loads the data: three reads, success, nobody is woken."""
    database.make_six_columns()
    loader = guard.directory / "load data.sh"
    loader.write_text(
        "echo attempt >> attempts\n"
        f"[ $(wc -l < attempts) -lt 2 ] || redis-cli -s {redis_server.socket} set your_data_key x\n"
    )
    guard.configure(job(redis_server, database, wecom, "recover = \"command:sh 'load data.sh'\""))
    done = guard("check-redis", "--json")
    (result,) = done.json
    assert done.code == 0
    assert (result["status"], result["reads"], result["attempts"], result["bad"]) == ("success", 3, 2, [])
    assert [step["action"] for step in result["recoveries"]] == ["command", "command"]
    assert result["delivered"] == {"mysql": True}
    assert database.statuses() == ["成功"]
    assert wecom.messages == []


def test_json_is_one_document_and_the_history_has_the_same_run(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom
) -> None:
    """The documented fields are there, and history --json has the event with the same run_id."""
    database.make_six_columns()
    guard.configure(job(redis_server, database, wecom))
    done = guard("check-redis", "--json")
    (result,) = json.loads(done.out)
    assert {"check", "run_id", "status", "reads", "attempts", "bad", "duration_ms", "delivered"} <= result.keys()
    assert result["bad"] == [{"key": "your_data_key", "reason": "is missing"}]
    assert result["delivered"] == {"mysql": True, "wecom": True}
    (event,) = guard.history()
    assert {"at", "kind", "run_id", "check", "status", "detail", "delivered"} <= event.keys()
    assert event["run_id"] == result["run_id"]
    assert event["delivered"] == result["delivered"]
    assert guard("history", "--json", "--check", "other").json == []
    assert len(guard("history", "--check", "metadata").out.splitlines()) == 1


def test_a_dry_run_changes_nothing(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom
) -> None:
    """It reads once and says what it found; no recovery, no journal, no row, no alert."""
    database.make_six_columns()
    guard.configure(job(redis_server, database, wecom, COMMAND))
    done = guard("check-redis", "--dry-run", "--json")
    assert done.code == 1
    assert (done.json[0]["reads"], done.json[0]["run_id"]) == (1, None)
    assert (attempts(guard), database.statuses(), wecom.requests, guard.state.exists()) == (0, [], [], False)


def test_only_the_named_checks_run(guard: Guard, redis_server: RedisServer) -> None:
    """A name on the command line selects one check; without a name all run."""
    guard.configure(job(redis_server, None, None) + '[checks."文章"]\nkeys = ["a"]\nretries = 0\n')
    assert [row["check"] for row in guard("check-redis", "文章", "--json").json] == ["文章"]
    assert [row["check"] for row in guard("check-redis", "--json").json] == ["metadata", "文章"]
    unknown = guard("check-redis", "metadat")
    assert unknown.code == 2
    assert "There is no check metadat" in unknown.err
    assert "did you mean metadata?" in unknown.err


def test_a_wrong_password_is_read_once_recorded_and_alerted(guard: Guard, database: Database, wecom: FakeWeCom) -> None:
    """No attempt can mend it, and each would be one more strike against the account."""
    database.make_six_columns()
    with RedisServer("--requirepass", "right-password") as server:
        server.start()
        guard.configure(
            job(server, database, wecom, COMMAND).replace("[mysql]", 'password = "wrong-password"\n[mysql]')
        )
        done = guard("check-redis", "--json")
        with server.client(password="right-password") as client:
            assert len(client.execute_command("ACL", "LOG")) == 1
    assert done.code == 1
    assert (done.json[0]["reads"], done.json[0]["attempts"], done.json[0]["error"]) == (1, 0, "WRONGPASS")
    assert attempts(guard) == 0
    assert database.statuses() == ["失败"]
    assert "拒绝了用户名或密码" in wecom.texts[0].splitlines()[0]


def test_data_of_the_wrong_type_is_told_at_once(guard: Guard, redis_server: RedisServer, wecom: FakeWeCom) -> None:
    """No restart attempt is made, since a restart cannot change a type; a person is alerted."""
    with redis_server.client() as client:
        client.hset("your_data_key", "a", "b")
    guard.configure(job(redis_server, None, wecom, f'type = "string"\n{COMMAND}'))
    done = guard("check-redis", "--json")
    assert (done.json[0]["reads"], attempts(guard), len(wecom.messages)) == (1, 0, 1)


def test_a_server_that_is_down_gets_its_attempts(guard: Guard, redis_server: RedisServer) -> None:
    """The recovery may be what brings it up."""
    guard.configure(
        job(redis_server, None, None, COMMAND).replace(redis_server.url, f"redis://127.0.0.1:{free_port()}/0")
    )
    done = guard("check-redis", "--json")
    assert (done.json[0]["reads"], attempts(guard), done.json[0]["error"]) == (4, 3, "refused")


def test_a_read_only_replica_during_a_failover_is_waited_for_not_restarted(guard: Guard) -> None:
    """MASTERDOWN: a restart would do harm."""
    with RedisServer("--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "no") as server:
        server.start()
        guard.configure(job(server, None, None, f'{COMMAND}\nwait_timeout = "100ms"'))
        done = guard("check-redis", "--json")
    assert (done.json[0]["reads"], attempts(guard), done.json[0]["error"]) == (4, 0, "MASTERDOWN")
    assert {step["action"] for step in done.json[0]["recoveries"]} == {"wait"}


def test_a_recovery_that_could_lose_data_is_refused(guard: Guard, wecom: FakeWeCom) -> None:
    """A master without persistence would empty its replicas when restarted; also when it is down, as it said before."""
    with RedisServer() as master, RedisServer() as replica:
        master.start()
        replica.options = ("--replicaof", "127.0.0.1", str(master.port))
        replica.start()
        with master.client() as client:
            wait_until(lambda: client.info("replication")["connected_slaves"] == 1, what="the replica")
        guard.configure(job(master, None, wecom, COMMAND))
        done = guard("check-redis", "--json")
        assert attempts(guard) == 0
        assert {step["how"] for step in done.json[0]["recoveries"]} == {"refused"}
        assert "拒绝执行 command：重启 Redis 可能丢失数据" in wecom.texts[0]
        master.kill()
        assert {step["how"] for step in guard("check-redis", "--json").json[0]["recoveries"]} == {"refused"}
        guard.configure(job(master, None, None, f"{COMMAND}\nrecover_when_unsafe = true"))
        guard("check-redis")
        assert attempts(guard) == 3


@pytest.mark.parametrize(
    ("command", "how", "detail"),
    [
        ("/no/such/program --password=hidden-argument", "not_started", "program: No such file or directory"),
        ("sh -c 'exit 7'", "exited", "7"),
        ("sh -c 'kill -9 $$'", "signalled", "SIGKILL"),
        ("sleep 100", "timed_out", "200ms"),
        ("sh -c 'sleep 100 & echo started'", "exited", "0"),
    ],
)
def test_how_a_recovery_command_ends_is_told(
    guard: Guard, redis_server: RedisServer, command: str, how: str, detail: str
) -> None:
    """Also of one that leaves a daemon behind, which must not hold the job up by its output."""
    options = f'retries = 1\nrecover_timeout = "200ms"\nrecover = "command:{command}"'
    guard.configure(job(redis_server, None, None, options))
    begun = time.monotonic()
    done = guard("check-redis", "--json")
    (step,) = done.json[0]["recoveries"]
    assert (step["how"], step["detail"]) == (how, detail)
    assert "hidden-argument" not in done.out + done.err
    assert time.monotonic() - begun < 10


def test_two_at_once_one_works_the_other_changes_nothing(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom
) -> None:
    """The second exits 75 and says who is at work; afterwards there is one row and one alert."""
    database.make_six_columns()
    guard.configure(
        job(
            redis_server,
            database,
            wecom,
            "retries = 1\nrecover = \"command:sh -c 'touch in; while [ ! -e go ]; do sleep 0.01; done'\"",
        )
    )
    first = guard.popen("check-redis")
    wait_until((guard.directory / "in").exists, what="the first to be inside")
    second = guard("check-redis", "--json")
    assert (second.code, second.out) == (75, "")
    assert f"another process (pid {first.pid})" in second.err
    assert guard.history() == []
    (guard.directory / "go").touch()
    first.communicate()
    assert first.returncode == 1
    assert database.statuses() == ["失败"]
    assert len(wecom.messages) == 1


def test_a_recovery_command_does_not_inherit_the_lock(guard: Guard, redis_server: RedisServer) -> None:
    """A daemon that a recovery starts must not keep check-redis locked for ever."""
    guard.configure(
        job(redis_server, None, None, "retries = 1\nrecover = \"command:sh -c 'sleep 30 & echo $! > pid'\"")
    )
    assert guard("check-redis").code == 1
    pid = int((guard.directory / "pid").read_text())
    descriptors = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    assert not any("state" in name for name in descriptors)
    assert guard("check-redis").code == 1


def test_an_open_incident_is_repeated_after_the_interval(
    guard: Guard, redis_server: RedisServer, wecom: FakeWeCom
) -> None:
    """Within repeat_interval a second failure sends nothing; after it one message follows."""
    guard.configure(job(redis_server, None, wecom, "retries = 0").replace("[checks", 'repeat_interval = "1h"\n[checks'))
    guard("check-redis")
    guard("check-redis")
    assert len(wecom.messages) == 1
    guard.configure(job(redis_server, None, wecom, "retries = 0").replace("[checks", 'repeat_interval = "0s"\n[checks'))
    guard("check-redis")
    assert [text[:6] for text in wecom.texts] == ["【故障】Re", "【仍未恢复】"]
    assert "已连续失败 3 次" in wecom.texts[1]


def test_english_alerts(guard: Guard, redis_server: RedisServer, wecom: FakeWeCom) -> None:
    """With language = "en" the first line alone says what broke, where and how badly."""
    guard.configure(job(redis_server, None, wecom, "retries = 0").replace("[checks", 'language = "en"\n[checks'))
    guard("check-redis")
    first_line = wecom.texts[0].splitlines()[0]
    assert first_line.startswith(
        "[DOWN] Redis data metadata: 1 of 1 key bad (your_data_key is missing); no restart was"
    )


def test_a_hundred_thousand_keys_and_a_bar_only_on_a_terminal(guard: Guard, redis_server: RedisServer) -> None:
    """They are read in bounded time, and off a terminal no progress bar is printed."""
    with redis_server.client() as client:
        for start in range(0, 100_000, 10_000):
            client.mset({f"irm:{n}": "x" for n in range(start, start + 10_000)})
    guard.configure(f'[redis]\nurl = "{redis_server.url}"\n[checks.all]\npatterns = ["irm:*"]\ntype = "string"\n')
    done = guard("check-redis", "--json")
    assert done.json[0]["keys"] == 100_000
    assert done.err == ""


def test_off_a_terminal_every_line_starts_with_its_time(guard: Guard, redis_server: RedisServer) -> None:
    """ISO 8601 with the host's offset, on both streams: they become cron's log files."""
    guard.configure(job(redis_server, None, None))
    done = guard("check-redis")
    for line in (done.out + done.err).splitlines():
        assert line[10] == "T"
        assert line[19:25] == "+08:00", line


def test_a_hanging_server_costs_bounded_time(guard: Guard, redis_server: RedisServer) -> None:
    """A Redis that is stopped ends each read by the timeout."""
    guard.configure(job(redis_server, None, None, "retries = 1").replace("[checks", 'timeout = "300ms"\n[checks', 1))
    redis_server.signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        done = guard("check-redis", "--json")
        assert time.monotonic() - begun < 10
    finally:
        resume(redis_server.process)
    assert done.json[0]["error"] == "timeout"


def test_a_catch_up_beside_the_check_makes_no_second_outcome(guard: Guard, redis_server: RedisServer) -> None:
    """They start in the same second: due is decided under the lock, and whoever comes second is silent."""
    guard.configure(job(redis_server, None, None, "retries = 0"))
    assert guard("check-redis", "--if-due").code == 0  # it is new
    in_a_week = {"PYTHONPATH": str(PROGRAMS), "RG_CLOCK_SHIFT": str(8 * 86400)}
    crowd = [guard.popen("check-redis", "--if-due", environ=in_a_week) for _ in range(6)]
    outputs = [process.communicate(timeout=60) for process in crowd]
    assert len(guard.history()) == 1
    spoken = [out for out, err in outputs if out or err]
    assert len(spoken) == 1, outputs
    assert sorted(process.returncode for process in crowd) == [0] * 5 + [1]
