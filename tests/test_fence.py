"""Whatever a target of a group is, it ends with its fence, and its fence with the permit of its host."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from restart_guard import host
from tests.faults import fence_of
from tests.hosts import STAMPER, Group
from tests.servers import RedisServer, wait_until

WORKER = (
    STAMPER
    + """\
if os.fork() == 0:
    os.setsid()
    stamp()
while True:
    time.sleep(1)
"""
)
DAEMON = (
    STAMPER
    + """\
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.3)  # its launcher has ended by then
        stamp()
    os._exit(0)
"""
)


@pytest.fixture
def start(tmp_path: Path, redis_server: RedisServer) -> Iterator[Callable[[str], Group]]:
    groups = []

    def begin(program: str) -> Group:
        groups.append(Group(tmp_path, f'[redis]\nurl = "{redis_server.url}"\n', 2.0, program))
        return groups[0].start("a", "b")

    yield begin
    groups[0].end()


def living(pid: int) -> bool:
    return any(one.pid == pid and not one.dead for one in host.everybody())


@pytest.mark.parametrize("program", [WORKER, DAEMON], ids=["worker", "daemon"])
def test_what_left_the_session_is_fenced_too(start: Callable[[str], Group], program: str) -> None:
    """The guard is killed; a worker or a daemon with a session of its own is down before another host's runs."""
    group = start(program)
    leader = group.leader()
    group.wait_for_more(50)
    assert len({one.launch for one in group.lines()}) == 1
    leader.signal(signal.SIGKILL)
    other = group.wait_for_another(leader)
    group.wait_for_more(50)
    assert group.leader() is other
    group.check()


def test_a_fence_that_is_killed_takes_its_target_along(start: Callable[[str], Group]) -> None:
    """And what it has started in another session; the watch then brings all back, and there are never two."""
    group = start(WORKER)
    leader = group.leader()
    pid, fence = group.lines()[-1].pid, fence_of(leader)
    assert pid != fence
    os.kill(fence, signal.SIGKILL)
    wait_until(lambda: group.lines()[-1].pid != pid, what="another target")
    assert not living(pid)
    group.check()


def test_what_nobody_fences_is_ended_by_the_next_that_takes_part(start: Callable[[str], Group]) -> None:
    """The guard, its watch, the fence and its second process are killed at once."""
    group = start(WORKER)
    leader = group.leader()
    pid, fence = group.lines()[-1].pid, fence_of(leader)
    assert leader.process is not None
    others = [one.pid for one in host.everybody() if one.parent in (fence, leader.process.pid) and one.pid != pid]
    os.kill(fence, signal.SIGSTOP)  # it would make a new second process
    for one in (leader.process.pid, *others, fence):
        os.kill(one, signal.SIGKILL)
    assert living(pid)
    leader.end()
    leader.join()
    wait_until(lambda: not living(pid), what="the end of the worker")
    group.wait_for_more(50)
    group.check()


def test_what_ran_before_there_was_a_group_is_ended_first(tmp_path: Path, redis_server: RedisServer) -> None:
    """It has no fence: it is stopped gently when its host takes part, and started again by whoever leads."""
    group = Group(tmp_path, f'[redis]\nurl = "{redis_server.url}"\n')
    try:
        first = group.add("a")
        config = first.guard.config.read_text()
        first.guard.configure(first.target)
        assert first.guard("start", "web").code == 0
        pid = wait_until(group.last, what="the target").pid
        first.guard.config.write_text(config)
        first.join()
        wait_until(lambda: not living(pid), what="the end of it")
        wait_until(lambda: group.lines()[-1].pid != pid, what="another")
        assert fence_of(first) != group.lines()[-1].pid
        group.check()
        assert "relaunched" not in first.guard("status").out
    finally:
        group.end()


def test_a_paused_hand_over_starts_nothing(tmp_path: Path, redis_server: RedisServer) -> None:
    """While a target drains for a hand-over, neither a tick nor a start brings it up again."""
    group = Group(tmp_path, f'[redis]\nurl = "{redis_server.url}"\n')
    group.program = STAMPER + "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nstamp()\n"
    try:
        host_a = group.add("a")
        host_a.guard.config.write_text(host_a.guard.config.read_text().replace('timeout = "1s"', 'timeout = "3s"'))
        host_a.join()
        leader = group.leader()
        pid = group.lines()[-1].pid
        leader.signal(signal.SIGTERM)
        permit = next(leader.guard.state.glob("standby-g.permit"))
        wait_until(lambda: permit.read_text().split()[2] == "0", what="the hand-over")
        fence = fence_of(leader)
        leader.guard("kill", "web")
        for command in ("restart", "start"):
            assert leader.guard(command, "web").code in (0, 75)
        assert leader.process is not None
        assert leader.process.wait(20) == 0
        time.sleep(0.2)
        assert {one.pid for one in group.lines()} == {pid}
        assert not living(fence)
    finally:
        group.end()
