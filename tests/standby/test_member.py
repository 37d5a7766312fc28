"""A group of hosts: never two run the targets, and one takes over within the lease. Real processes, a real Redis."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from restart_guard.config import load as config_file
from restart_guard.errors import ConfigError
from tests.conftest import Database, Guard
from tests.support.hosts import Group, of
from tests.support.servers import RedisServer, wait_until


@pytest.fixture
def group(tmp_path: Path, redis_server: RedisServer) -> Iterator[Group]:
    one = Group(tmp_path, f'[redis]\nurl = "{redis_server.url}"\n')
    yield one
    one.end()


def test_a_clean_end_hands_over_at_once(group: Group, redis_server: RedisServer) -> None:
    """SIGTERM, and standby --hand-over, which stays: the other leads in less than a lease."""
    group.start("a", "b")
    leader = group.leader()
    group.wait_for_heir(redis_server)
    moment = time.monotonic()
    leader.signal(signal.SIGTERM)
    other = group.wait_for_another(leader)
    assert group.taken_over_after(moment, other) < 2.0
    assert leader.process is not None
    assert leader.process.wait(10) == 0
    leader.end()
    leader.join()
    group.wait_for_heir(redis_server)
    assert other.guard("standby", "--hand-over").code == 0
    assert group.wait_for_another(other) is leader
    assert other.process is not None
    assert other.process.poll() is None
    group.check()
    told = [event["detail"] for event in other.guard.history() if event["kind"] == "standby"]
    assert any("[STEP-DOWN]" in text and "it hands over" in text for text in told)
    assert any("[TAKEOVER]" in text for text in told)


def test_who_leads_is_shown(group: Group, database: Database) -> None:
    """With a fencing token that rises, in the environment of the targets too."""
    group.config += f'[mysql]\nsocket = "{database.server.socket}"\nuser = "root"\ndatabase = "{database.name}"\n'
    group.start("a", "b")
    leader = group.leader()
    (other,) = group.others(leader)
    found = of(leader.guard("standby", "--status", "--json"))
    assert (found["role"], found["holder"], found["token"]) == ("leading", leader.name, 1)
    found = of(other.guard("standby", "--status", "--json"))
    assert (found["role"], found["holder"]) == ("standby", leader.name)
    assert "is leading, fencing token 1" in leader.guard("standby", "--status").out
    leader.signal(signal.SIGKILL)
    group.wait_for_another(leader)
    assert {one.token for one in group.lines() if one.host == other.name} == {"2"}
    group.check()


def test_a_standby_host_starts_nothing(group: Group) -> None:
    """Its ticks and starts keep the intent; a target that was stopped by hand stays down."""
    group.start("a", "b")
    leader = group.leader()
    (other,) = group.others(leader)
    assert "this host is a standby" in other.guard("start", "web").out
    tick = other.guard("restart")
    assert (tick.code, tick.out, tick.err) == (0, "", "")
    assert {one.host for one in group.lines()} == {leader.name}
    assert leader.guard("stop", "web").code == 0
    count = len(group.lines())
    assert leader.guard("restart").out == ""
    time.sleep(0.5)
    assert len(group.lines()) == count
    assert leader.guard("start", "web").code == 0
    wait_until(lambda: len(group.lines()) > count, what="the target")
    group.check()


def test_status_tells_who_leads(group: Group) -> None:
    """A target that another host runs is stopped here (3), though its pid lock is there."""
    group.start("a", "b")
    leader = group.leader()
    (other,) = group.others(leader)
    found = leader.guard("status")
    assert (found.code, found.out.endswith("(this host leads)\n"), "relaunched" in found.out) == (0, True, False)
    assert other.guard("start", "web").code == 0
    why = f"this host is a standby; {leader.name} leads"
    wait_until(lambda: other.guard("status", "--json").json[0]["why"] == why, what="who leads")
    found = other.guard("status", "--json")
    assert (found.code, found.json[0]["state"], found.json[0]["pid_lock"] is not None) == (3, "stopped", True)
    other.end()
    (other.guard.state / "standby-g.json").unlink()
    assert "for the leader see" in other.guard("status").out


def test_cron_may_start_one_each_minute(group: Group) -> None:
    """With --for the next one goes on where the last left off: same leader, same target, no gap. Killed too."""
    group.lease = 8.0
    group.config = f'fence = "6s"\nbeat = "500ms"\ngap = "1s"\n{group.config}'
    group.start("a")
    leader = group.leader()
    pid = group.lines()[-1].pid
    leader.end()
    leader.join("--for", "2s")
    assert leader.process is not None
    assert leader.process.wait(20) == 0
    leader.end()
    leader.join()
    count = len(group.lines())
    wait_until(lambda: len(group.lines()) > count + 300, what="the target to go on", timeout=30)
    assert {one.pid for one in group.lines()} == {pid}


def test_two_on_one_host_take_turns(group: Group) -> None:
    """A second waits, a third is told that it is not needed."""
    group.start("a")
    leader = group.leader()
    with leader.guard.popen("standby") as second:
        locks = leader.guard.state / "locks/next-standby-g"
        wait_until(lambda: locks.exists() and locks.read_text() == f"{second.pid}\n", what="the second to wait")
        assert leader.guard("standby").code == 75
        second.kill()


@pytest.mark.process
def test_without_a_group_there_is_nothing_to_take_part_in(tmp_path: Path) -> None:
    """Each form of standby is a usage error without [standby]."""
    for arguments in ([], ["--status"], ["--hand-over"]):
        done = Guard(tmp_path).configure("")("standby", *arguments)
        assert (done.code, "has no section [standby]" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ('fence = "8s"', "standby.lease: must be longer than fence + gap + beat"),
        ('beat = "1.5s"\ngap = "2s"', "standby.gap: must be at least 1.5 × beat"),
        ('targets = ["wbe"]', "there is no [targets.wbe] (did you mean web?)"),
        ('node = "a|b"', "expected a name without |"),
        ('[targets.own]\nprogram = "y.py"\nuser = "nobody"', "targets.own.user: expected none in a standby group"),
    ],
)
def test_timings_that_cannot_be(tmp_path: Path, options: str, told: str) -> None:
    """Timings with which two could lead are refused when the config is read."""
    path = tmp_path / "config.toml"
    path.write_text(f'[targets.web]\nprogram = "x.py"\n[standby]\ngroup = "g"\n{options}\n')
    with pytest.raises(ConfigError) as caught:
        config_file.load(path, {})
    assert told in str(caught.value)


def test_doctor_says_what_a_failover_lacks(group: Group) -> None:
    """And on a standby it finds nothing wrong with a target that another host runs."""
    group.config = f'fence = "600ms"\n{group.config}'
    group.start("a", "b")
    leader = group.leader()
    out = leader.guard("doctor").out
    assert f"ok    standby g: {leader.name} is leading" in out
    assert "warn  standby: Redis is a single server" in out
    assert "warn  standby: fence is 0.6s: after a failover that loses writes two hosts may lead for a moment" in out
    assert "warn  standby: web may drain for longer than half of fence" in out
    (other,) = group.others(leader)
    assert other.guard("start", "web").code == 0
    assert "ok    target web: stopped" in other.guard("doctor").out
    leader.end()
    assert "no standby process runs on this host at the moment" in leader.guard("doctor").out
