"""doctor: one line a thing, what to do, and never a message unless asked."""

import pytest

from tests.conftest import Database, Guard, job
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import RedisServer, free_port
from tests.support.services import Service


def lines(guard: Guard) -> list[str]:
    return guard("doctor").out.splitlines()


def test_all_is_well(guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom) -> None:
    """Every line but the timer's (tests/timer/ has one) is ok, the exit code 0, and nothing was posted."""
    database.make_six_columns()
    guard.configure(job(redis_server, database, wecom))
    done = guard("doctor")
    assert done.code == 0
    others = [line for line in done.out.splitlines() if "timer: " not in line]
    assert len(others) == len(done.out.splitlines()) - 1 > 4
    assert all(line.startswith("ok    ") for line in others), done.out
    assert f"redis 127.0.0.1:{redis_server.port}/0: version" in done.out
    assert "status 成功/失败, rows arrive once (sidecar)" in done.out
    assert wecom.requests == []


def test_it_changes_nothing(guard: Guard, redis_server: RedisServer, database: Database) -> None:
    """No state directory, which might then be root's, and no table in the user's database."""
    database.make_six_columns()
    guard.configure(job(redis_server, database, None))
    assert guard("doctor").code == 0
    assert not guard.state.exists()
    assert database.run("SHOW TABLES") == [("task_monitor",)]


def test_json_has_the_same_findings(guard: Guard, redis_server: RedisServer) -> None:
    """Each finding has its status, text and advice."""
    guard.configure(job(redis_server, None, None))
    found = guard("doctor", "--json").json
    assert {row["status"] for row in found} == {"ok", "warn"}
    assert [row["what"] for row in found if row["advice"]][1:] == [
        "no [wecom]: nobody is alerted when a check stays bad"
    ]


def test_a_test_alert_only_when_asked(guard: Guard, redis_server: RedisServer, wecom: FakeWeCom) -> None:
    """Without --send-test-alert nothing is sent; with it a refused message is a failure."""
    guard.configure(job(redis_server, None, wecom))
    guard("doctor")
    assert wecom.messages == []
    assert "ok    wecom: a test alert was sent" in guard("doctor", "--send-test-alert").out
    assert wecom.texts[0].startswith("【测试】restart-guard | ")
    wecom.script.append(93000)
    failed = guard("doctor", "--send-test-alert")
    assert failed.code == 1
    assert "check [wecom] webhook" in failed.out


def test_everything_down_is_told_line_by_line(guard: Guard, wecom: FakeWeCom) -> None:
    """Nothing is there, and each line says so and what to do; the exit code is 1."""
    guard.configure(
        f"""
        [redis]
        url = "redis://127.0.0.1:{free_port()}/0"
        password = {{ env = "NOT_SET" }}
        [mysql]
        host = "127.0.0.1"
        port = {free_port()}
        user = "u"
        database = "d"
        [wecom]
        corp_id = "corp-9"
        corp_secret = "x"
        agent_id = 1
        to_users = ["a"]
        api_base = "{wecom.base}"
        """
    )
    done = guard("doctor")
    assert done.code == 1
    failing = [line for line in done.out.splitlines() if line.startswith("fail  ")]
    assert [line.split()[1] for line in failing] == ["secret", "redis", "MySQL", "WeCom"]
    assert all(" → " in line for line in failing)
    assert "warn  no target and no check is configured" in done.out


def test_a_ttl_that_ends_with_daylight_saving_time_is_foreseen(guard: Guard, redis_server: RedisServer) -> None:
    """7 d + 1 h leave nothing on the Monday after the clocks went back, in Berlin, and an hour in Shanghai."""
    guard.configure(job(redis_server, None, None, 'full_ttl = "7d1h"'))
    shanghai = next(line for line in lines(guard) if "TTL" in line)
    assert shanghai.startswith("ok    check metadata: of 7d1h the TTL has 1h left at ")
    guard.environ["TZ"] = "Europe/Berlin"
    berlin = next(line for line in lines(guard) if "TTL" in line)
    assert berlin.startswith("warn  check metadata: of 7d1h the TTL has 0ms left at ")
    assert " 02:00 +0100: the data will have expired" in berlin
    guard.configure(job(redis_server, None, None, 'full_ttl = "7d1h"') + '[timer]\ncheck_redis = "0 2 31 2 *"\n')
    assert any(line.startswith("fail  timer.check_redis: ") for line in lines(guard))


def test_what_a_launch_would_lack_is_told_before_it(guard: Guard, service: Service) -> None:
    """Program, command, account, environment and log, a line each; without a use for Redis nobody asks for it."""
    service.configure()
    assert [line for line in lines(guard) if "redis" in line] == []
    assert "ok    target web: stopped" in lines(guard)
    guard("start")
    assert f"ok    target web: running, pid {service.pid()}" in lines(guard)
    guard.configure(
        service.section("", 'environment_file = "none.env"\nuser = "nobody-of-that-name"').replace("{python}", "none")
        + '[targets.gone]\nprogram = "gone.py"\nlog_file = "/proc/x.log"\n'
    )
    told = [line for line in lines(guard) if line.startswith("fail  target ")]
    assert [line.split(": ", 1)[1].split(" → ")[0] for line in told] == [
        f"its command none was not found from {service.program.parent}",
        "there is no user nobody-of-that-name on this host",
        f"its program {guard.directory}/gone.py does not exist",
    ]


def test_data_that_will_be_gone_before_the_next_check_is_told(guard: Guard, redis_server: RedisServer) -> None:
    """A key that expires before the next scheduled check is a warning."""
    with redis_server.client() as client:
        client.set("your_data_key", "x", ex=5)
    guard.configure(job(redis_server, None, None))
    assert any("warn  check metadata: your_data_key expires in " in line for line in lines(guard))


def test_receivers_that_do_not_exist_stay_visible(guard: Guard, redis_server: RedisServer, wecom: FakeWeCom) -> None:
    """The message reached the others, and nobody would notice else."""
    app = (
        f'[wecom]\napi_base = "{wecom.base}"\n'
        'corp_id = "corp-1"\ncorp_secret = "corp-secret-0001"\nagent_id = 1000002\n'
        'to_users = ["zhangsan", "wangwu"]\n'
    )
    guard.configure(job(redis_server, None, None, "retries = 0") + app)
    assert guard("check-redis", "--json").json[0]["delivered"] == {"wecom_app": True}
    assert any(line.startswith("warn  wecom_app") and "wangwu" in line for line in lines(guard))


def test_a_replica_and_danger_are_warned_of(guard: Guard) -> None:
    """A replica is named, and so is a server whose restart could lose data."""
    with RedisServer() as master:
        master.start()
        with RedisServer("--replicaof", "127.0.0.1", str(master.port)) as replica:
            replica.start()
            guard.configure(job(replica, None, None))
            assert any("is a replica, its link to the master is" in line for line in lines(guard))


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_files_that_others_can_read_are_warned_of(guard: Guard, redis_server: RedisServer, mode: int) -> None:
    """A secret file and a config with a plain secret each get a chmod 600."""
    (guard.directory / "pw").write_text("x")
    (guard.directory / "pw").chmod(mode)
    guard.configure('[redis]\npassword = { file = "pw" }\nsentinel_password = "plain"\n')
    guard.config.chmod(mode)
    done = guard("doctor")
    assert done.out.count("chmod 600") == (2 if mode == 0o644 else 0)
    assert done.err.count("chmod 600") == (1 if mode == 0o644 else 0)
