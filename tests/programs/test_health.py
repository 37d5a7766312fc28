"""A program that runs but hangs is restarted; one that is well, or of which nothing can be said, is left alone."""

import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restart_guard.config.options import Health
from restart_guard.durations import Duration
from restart_guard.programs import health as rules
from restart_guard.programs.health import HealthRecord, ProbeResult
from tests.conftest import Guard
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import RedisServer, free_port, wait_until
from tests.support.services import PROGRAMS, Service, watching

HEALTH = Health(tcp="127.0.0.1:1", failures=3)
QUICK = 'start_timeout = "10s"\nstop_timeout = "300ms"\nrestart_backoff = { base = "1ms", max = "1ms" }\n'
OFTEN = 'interval = "100ms"\ntimeout = "300ms"\nfailures = 2\n'


@given(st.lists(st.sampled_from([True, False, None])))
def test_only_failures_in_a_row_count(answers: list[bool | None]) -> None:
    """A good probe forgives all; one that says nothing changes nothing."""
    now, expected = HealthRecord(), 0
    for ok in answers:
        now = rules.judged(now, ProbeResult(ok), HEALTH, started=7, now=100.0, fresh=False)
        expected = 0 if ok else expected + (ok is False)
        assert now.failures == expected
        assert rules.hangs(now, HEALTH) == (expected >= 3)


def test_another_process_begins_anew_and_a_starting_one_is_given_time() -> None:
    """Failures belong to one process, and do not count while it starts."""
    ill = HealthRecord(started=7, failures=2, next_at=0.0)
    assert rules.judged(ill, ProbeResult(False), HEALTH, started=8, now=1.0, fresh=False).failures == 1
    assert rules.judged(ill, ProbeResult(False), HEALTH, started=7, now=1.0, fresh=True).failures == 2
    assert rules.judged(ill, ProbeResult(True, beat="x"), HEALTH, started=7, now=1.0, fresh=True) == HealthRecord(
        7, 0, 11.0, "x"
    )


def test_a_probe_is_due_after_its_interval_and_never_put_off_for_ever() -> None:
    """A next probe further away than the interval counts as due."""
    health = Health(tcp="h:1", interval=Duration(10))
    assert not rules.is_due(HealthRecord(next_at=105.0), health, now=100.0)
    assert rules.is_due(HealthRecord(next_at=100.0), health, now=100.0)
    assert rules.is_due(HealthRecord(next_at=1e9), health, now=100.0)


@contextmanager
def web(guard: Guard, health: str = "", options: str = "") -> Iterator[tuple[Service, int]]:
    service, port = Service(guard), free_port()
    shutil.copy(PROGRAMS / "web.py", service.program)
    probe = health or f'http = "http://127.0.0.1:{port}/"'
    service.configure(str(port), f"{QUICK}{options}\n[targets.web.health]\n{OFTEN}{probe}\n")
    try:
        yield service, port
    finally:
        service.end()


def hang(service: Service, port: int) -> int:
    """Make the program hang, deaf to TERM; its pid."""
    urllib.request.urlopen(f"http://127.0.0.1:{port}/hang", timeout=5).close()
    return service.pid()


def test_start_waits_until_the_program_is_well(guard: Guard) -> None:
    """Exit code 0 means that it answers; one that never does is told, and runs on under guard."""
    with web(guard) as (_, port):
        assert guard("start").code == 0
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).status == 200


def test_a_program_that_does_not_get_well_is_told_and_stays_guarded(guard: Guard) -> None:
    """start fails with the reason, but the program keeps its pid lock."""
    with web(guard) as (service, _):
        health = f'[targets.web.health]\ntcp = "127.0.0.1:{free_port()}"\n'
        service.configure(str(free_port()), f'start_timeout = "300ms"\n{health}')
        done = guard("start")
        assert done.code == 1
        assert "but its health check did not pass within 300ms: Connection refused" in done.err
        assert service.lock.read_text() == f"{service.pid()}\n"


def test_ticks_restart_a_program_that_hangs(guard: Guard) -> None:
    """The failures are counted from tick to tick; what is deaf to TERM is killed after its time to drain."""
    with web(guard) as (service, port):
        text = guard.config.read_text().partition("\n")[2].replace('start_timeout = "10s"', 'start_timeout = "1s"')
        guard.configure(text)
        guard("start")
        assert guard("restart").out == ""
        pid = hang(service, port)
        out = wait_until(lambda: guard("restart").out, what="the restart")
        assert "web: hangs (no answer within 300ms, 2 times in a row): killed after" in out
        assert service.pid() != pid
        assert service.lock.read_text() == f"{service.pid()}\n"
        assert "hangs (no answer" in guard.history()[0]["detail"]


def test_a_watch_restarts_a_program_that_hangs_and_delays_no_other(guard: Guard) -> None:
    """While it drains for seconds, another one that dies is back at once."""
    with web(guard) as (service, port):
        other = Service(guard, "other")
        slow = guard.config.read_text().partition("\n")[2]
        slow = slow.replace('start_timeout = "10s"', 'start_timeout = "1s"').replace(
            '"300ms"\nrestart', '"8s"\nrestart'
        )
        guard.configure(slow + other.section("", 'restart_backoff = { base = "1ms", max = "1ms" }'))
        try:
            guard("start")
            with watching(guard):
                pid = hang(service, port)
                wait_until(lambda: '"failures":2' in state(service), what="the verdict")
                for _ in range(3):
                    other.wait_for_another(other.kill())
                assert service.pids() == [pid]
                service.wait_for_another(pid)
        finally:
            other.end()


def state(service: Service) -> str:
    return service.program.with_name(".service.py.state").read_text()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [("command", "true", "sh -c 'echo the queue is stuck; exit 1'"), ("tcp", "127.0.0.1:{port}", "127.0.0.1:{closed}")],
)
def test_commands_and_ports(guard: Guard, kind: str, good: str, bad: str) -> None:
    """A good one leaves the program alone, a bad one restarts it after so many in a row."""
    with web(guard) as (service, port):

        def configure(value: str) -> None:
            filled = value.format(port=port, closed=free_port())
            health = f'[targets.web.health]\ninterval = "10ms"\nfailures = 2\n{kind} = "{filled}"\n'
            service.configure(str(port), QUICK.replace("10s", "10ms") + health)

        configure(good)
        guard("start")
        service.ready()
        pid = service.pid()
        for _ in range(3):
            assert guard("restart").out == ""
        configure(bad)
        out = wait_until(lambda: guard("restart").out, what="the restart")
        assert "2 times in a row" in out
        assert ("the queue is stuck" if kind == "command" else "Connection refused") in out
        assert service.pid() != pid


def test_heartbeats_in_redis(service: Service, redis_server: RedisServer) -> None:
    """A key that expires, a key that changes, a channel; a Redis that is away is no fault of the program's."""
    guard = service.guard

    def configure(name: str, url: str = redis_server.url) -> None:
        health = (
            f'[targets.web.health]\ninterval = "10ms"\ntimeout = "500ms"\nfailures = 2\nredis_heartbeat = "{name}"\n'
        )
        guard.configure(service.section("", QUICK.replace("10s", "10ms")) + health + f'\n[redis]\nurl = "{url}"\n')

    with redis_server.client() as client:
        client.set("跳动", "x", ex=60)
        configure("跳动")
        guard("start")
        pid = service.pid()
        assert [guard("restart").out for _ in range(3)] == ["", "", ""]
        client.persist("跳动")
        for beat in range(3):
            client.set("跳动", str(beat))
            assert guard("restart").out == ""
        assert service.pid() == pid
        out = wait_until(lambda: guard("restart").out, what="the restart")
        assert "the heartbeat 跳动 has not changed, 2 times in a row" in out
        client.delete("跳动")
        assert "is missing" in wait_until(lambda: guard("restart").out, what="the restart")
        pid = service.pid()
        configure("跳动", "redis://127.0.0.1:1/0")
        assert [guard("restart").out for _ in range(4)] == ["", "", "", ""]
        assert service.pid() == pid
        configure("channel:beats")
        assert "no message on beats" in wait_until(lambda: guard("restart").out, what="the restart")
        with guard.popen("restart") as tick:
            while tick.poll() is None:
                client.publish("beats", "alive")
            assert tick.communicate()[0] == ""


def test_restarts_of_a_program_that_never_gets_well_slow_down_and_are_told(guard: Guard, wecom: FakeWeCom) -> None:
    """The same backoff as for one that dies, and the same one message; uptime alone does not make it well."""
    with web(guard) as (service, _):
        usual = 'restart_backoff = { base = "50ms", max = "50ms", reset_after = "10ms" }\nstart_timeout = "10ms"\n'
        health = f'[targets.web.health]\ninterval = "10ms"\nfailures = 1\ntcp = "127.0.0.1:{free_port()}"\n'
        alert = f'[wecom]\nwebhook = "{wecom.webhook}"\n'
        guard.configure(service.section(str(free_port()), usual) + health + alert)
        assert guard("start").code == 1
        wait_until(lambda: guard("restart").code == 0 and wecom.texts, what="the alert")
        assert "【故障】程序 web 反复退出：已连续重启 3 次" in wecom.texts[0]
        assert "hangs (Connection refused" in wecom.texts[0]
        guard.configure(service.section(str(free_port()), usual.replace("50ms", "1h")) + health + alert)
        wait_until(lambda: guard("restart").out, what="one more restart")
        assert [guard("restart").out for _ in range(3)] == ["", "", ""]
        assert len(wecom.texts) == 1
