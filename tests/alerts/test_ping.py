"""The dead man's switch: what a monitor is told of ticks and checks, and that it harms no job when it is away."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from restart_guard.alerts.ping import address
from restart_guard.config import load as config_file
from restart_guard.errors import ConfigError
from tests.conftest import Guard, job
from tests.support.fake_wecom import FakeWeCom
from tests.support.monitor import Monitor
from tests.support.servers import RedisServer, wait_until
from tests.support.services import Service, watching


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    with Monitor() as one:
        yield one


def section(url: str) -> str:
    return f'[ping]\nurl = "{url}"\n'


def load_data(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set("your_data_key", '{"名": 1}')


def test_a_check_tells_its_start_and_its_end(guard: Guard, redis_server: RedisServer, monitor: Monitor) -> None:
    """/start and then success or /fail, with the same rid and the summary as the body; the run_id is the rid."""
    guard.configure(job(redis_server, None, None, "retries = 0") + section(monitor.url))
    failed = guard("check-redis", "--json")
    assert failed.json[0]["delivered"] == {"ping": True}
    load_data(redis_server)
    assert guard("check-redis").code == 0
    assert monitor.signals == ["start", "fail", "start", ""]
    assert [ping.rid for ping in monitor.pings[:2]] == [failed.json[0]["run_id"]] * 2
    assert monitor.pings[2].rid == monitor.pings[3].rid != monitor.pings[0].rid
    assert "your_data_key" in monitor.pings[1].body


def test_a_tick_tells_its_exit_code(guard: Guard, service: Service, monitor: Monitor) -> None:
    """Success, /1 when a target cannot be brought back; nothing but that costs a tick."""
    guard.configure(service.section() + section(monitor.url))
    assert guard("restart").code == 0
    assert guard("start").code == 0
    service.kill()
    service.write("import sys; sys.exit(3)")
    assert guard("restart").code == 1
    assert monitor.signals == ["start", "", "start", "1"]


def test_a_watch_is_alive_too(guard: Guard, service: Service, monitor: Monitor) -> None:
    """In a container there may be a watch and no ticks."""
    guard.configure(service.section() + section(monitor.url))
    with watching(guard):
        wait_until(lambda: monitor.signals == [""], what="a ping")


def test_each_job_may_have_a_monitor_of_its_own(guard: Guard, redis_server: RedisServer, monitor: Monitor) -> None:
    """With {job} in the URL a check and the tick ping addresses of their own."""
    load_data(redis_server)
    guard.configure(job(redis_server, None, None) + section(f"{monitor.url}/{{job}}"))
    guard("check-redis")
    guard("restart")
    assert monitor.signals == ["check-metadata/start", "check-metadata", "tick/start", "tick"]


def test_an_alert_that_cannot_be_delivered_pings_fail(
    guard: Guard, redis_server: RedisServer, wecom: FakeWeCom, monitor: Monitor
) -> None:
    """At once, and by each tick until it has arrived."""
    wecom.script.extend(["502"] * 3)
    guard.configure(job(redis_server, None, wecom, "retries = 0") + section(monitor.url))
    assert guard("check-redis").code == 1
    assert monitor.signals == ["start", "fail", "fail"]
    assert "The alert about check metadata could not be delivered." in monitor.pings[-1].body
    assert guard("restart").code == 0
    assert monitor.signals[3:] == ["start", "fail"]
    assert guard("deliver").code in (0, 1)
    wecom.script.clear()
    assert guard("deliver").code == 0
    assert wecom.messages
    guard("restart")
    assert monitor.signals[-2:] == ["start", ""]


def test_a_monitor_that_is_away_fails_no_job(guard: Guard, redis_server: RedisServer) -> None:
    """The ping of a check waits in the journal; the exit codes are the jobs' own; doctor tells of a tick's."""
    load_data(redis_server)
    with Monitor() as monitor:
        url = monitor.url
        guard.configure(job(redis_server, None, None) + section(url))
        monitor.status = 503
        assert guard("check-redis").code == 0
        tick = guard("restart")
        assert (tick.code, tick.out, tick.err) == (0, "", "")
        assert "fail  ping: The monitor at 127.0.0.1 answers HTTP 503" in guard("doctor").out
        monitor.status = 200
        assert guard("deliver").code == 0
        assert monitor.signals[-1] == ""
        assert "ping-key-s3cret" not in (guard.state / "journal.db").read_bytes().decode(errors="replace")
    done = guard("check-redis")
    assert done.code == 0
    assert "The monitor at 127.0.0.1 was not reached: the connection was refused." in done.err
    assert guard("restart").code == 0


def test_a_monitor_that_drips_holds_up_nothing(guard: Guard, redis_server: RedisServer, monitor: Monitor) -> None:
    """The outcome is kept all the same, and both jobs end."""
    load_data(redis_server)
    monitor.silent = True
    guard.configure(job(redis_server, None, None) + section(monitor.url))
    assert guard("restart").code == 0
    assert "fail  ping: The monitor has not answered yet." in guard("doctor").out
    assert guard("check-redis").code == 0
    assert [event["status"] for event in guard.history()] == ["success"]


def test_a_monitor_that_knows_only_its_url(guard: Guard, redis_server: RedisServer, monitor: Monitor) -> None:
    """A 404 for /fail is no failed delivery: that monitor tells by the silence; one for the URL itself is."""
    guard.configure(job(redis_server, None, None, "retries = 0") + section(monitor.url))
    monitor.status = 404
    failed = guard("check-redis")
    assert "does not know /fail (HTTP 404): it alerts when pings stop" in failed.err
    load_data(redis_server)
    assert "answers HTTP 404: check [ping] url" in guard("check-redis").err


def test_addresses() -> None:
    """The signal goes into the path, the rid beside a query that is there; a name is quoted."""
    assert address("https://h/k", "tick", "", "r1") == "https://h/k?rid=r1"
    here = os.uname().nodename
    assert address("https://h/k/{host}-{job}", "tick", "", "") == f"https://h/k/{here}-tick"
    assert address("https://h/k/{job}/", "check-文章", "fail", "") == "https://h/k/check-%E6%96%87%E7%AB%A0/fail"
    assert address("http://h/push/K?status=up", "tick", "1", "r") == "http://h/push/K/1?status=up&rid=r"


@pytest.mark.parametrize("url", ["ftp://h/x", "hc-ping.com/x", "http://h:port/"])
def test_an_address_that_cannot_be_one_is_a_config_error(tmp_path: Path, url: str) -> None:
    """A URL that no monitor can have is refused when the config is read."""
    (tmp_path / "config.toml").write_text(section(url))
    with pytest.raises(ConfigError, match=r"ping\.url: "):
        config_file.load(tmp_path / "config.toml", {})
