"""Whatever a target of a group is, it ends with its fence, and its fence with the permit of its host."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from restart_guard import clock
from restart_guard.host import permit, process_table
from tests.conftest import Guard
from tests.support.faults import fence_of
from tests.support.hosts import STAMPER, Group
from tests.support.servers import RedisServer, wait_until
from tests.support.services import watching

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
    return any(one.pid == pid and not one.dead for one in process_table.everybody())


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
    others = [
        one.pid for one in process_table.everybody() if one.parent in (fence, leader.process.pid) and one.pid != pid
    ]
    os.kill(fence, signal.SIGSTOP)  # it would make a new second process
    for one in (leader.process.pid, *others, fence):
        os.kill(one, signal.SIGKILL)
    assert living(pid)
    leader.end()
    leader.join()
    wait_until(lambda: not living(pid), what="the end of the worker")
    # Until then it may have run beside another leader: README, Limits.
    ended = len(group.lines())
    group.wait_for_more(50)
    group.check(since=ended)


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


def test_python_of_the_target_is_not_the_fence_s(tmp_path: Path, redis_server: RedisServer) -> None:
    """Modules beside the program and a PYTHONPATH of its own are for the program alone; nothing of ours reaches it."""
    group = Group(tmp_path, f'[redis]\nurl = "{redis_server.url}"\n')
    group.program = STAMPER + "import json, mine\nopen('seen', 'w').write(json.dumps(dict(os.environ)))\nstamp()\n"
    try:
        one = group.add("a")
        folder = one.guard.directory / "app"
        (folder / "lib").mkdir(parents=True)
        (one.guard.directory / "run.py").rename(folder / "run.py")
        (folder / "select.py").write_text("raise RuntimeError\n")
        (folder / "lib/mine.py").touch()
        (folder / "lib/pathlib.py").write_text((Path(os.__file__).parent / "pathlib.py").read_text())
        text = one.guard.config.read_text().replace('"run.py"', '"app/run.py"')
        text = text.replace("min_uptime", f'environment.PYTHONPATH = "{folder}/lib"\nmin_uptime')
        one.guard.config.write_text(text)
        one.join()
        group.leader()
        wait_until(lambda: (folder / "seen").exists() and (folder / "seen").read_text(), what="its environment")
        seen = json.loads((folder / "seen").read_text())
        assert seen["PYTHONPATH"] == f"{folder}/lib"
        assert "RESTART_GUARD_FENCE" not in seen
    finally:
        group.end()


GENTLE = (
    STAMPER
    + """\
import signal
def end(number, frame):
    os.write(1, signal.Signals(number).name.encode() + b"\\n")
    os._exit(1)
if os.fork() == 0:
    def drain(number, frame):
        time.sleep(0.7)
        os.write(1, b"drained\\n")
        os._exit(0)
    signal.signal(signal.SIGTERM, drain)
    while True:
        time.sleep(1)
for number in (signal.SIGTERM, signal.SIGALRM):
    signal.signal(number, end)
signal.signal(signal.SIGHUP, lambda *_: os.write(1, b"reloaded\\n"))
stamp()
"""
)


@pytest.fixture
def gentle(tmp_path: Path, redis_server: RedisServer) -> Iterator[Group]:
    """A target with a log that says which signals came, and with a worker that takes its time."""
    group = Group(tmp_path, f'[redis]\nurl = "{redis_server.url}"\n', program=GENTLE)
    one = group.add("a")
    text = one.guard.config.read_text().replace('stop_timeout = "1s"', 'stop_timeout = "5s"\nlog_file = "web.log"')
    one.guard.config.write_text(text)
    one.join()
    group.leader()
    yield group
    group.end()


def said(group: Group) -> str:
    return (group.hosts["a"].guard.directory / "web.log").read_text()


def test_a_drain_behind_a_fence_is_as_gentle_as_any(gentle: Group) -> None:
    """The master ends at once, and not well; its worker has its time. Each gets the signal once."""
    done = gentle.hosts["a"].guard("stop", "web")
    assert done.code == 0, done
    assert sorted(said(gentle).split()) == ["SIGTERM", "drained"]


def test_a_reload_and_signals_by_hand_reach_the_program(gentle: Group) -> None:
    """Through the pid that stands in the pid lock, which is the fence's."""
    one = gentle.hosts["a"]
    assert one.guard("restart", "--hot", "web").code == 0
    wait_until(lambda: "reloaded" in said(gentle), what="the reload")
    os.kill(fence_of(one), signal.SIGHUP)
    wait_until(lambda: said(gentle).count("reloaded") == 2, what="another")
    os.kill(fence_of(one), signal.SIGALRM)
    wait_until(lambda: "SIGALRM" in said(gentle), what="its end")


def test_what_has_hidden_is_fenced_too(tmp_path: Path, redis_server: RedisServer) -> None:
    """A worker in a session of its own with an environment of its own descends from the fence all the same."""
    hidden = "subprocess.Popen([sys.executable, *sys.argv], env={'HIDDEN': os.environ['RESTART_GUARD_LAUNCH']})\n"
    program = (
        STAMPER.replace("import os", "import subprocess, os")
        + "if 'HIDDEN' in os.environ:\n    os.setsid()\n"
        + "    os.environ['RESTART_GUARD_LAUNCH'] = os.environ['HIDDEN']\n    stamp()\n"
        + f"{hidden}while True:\n    time.sleep(1)\n"
    )
    group = Group(tmp_path, f'[redis]\nurl = "{redis_server.url}"\n', 2.0, program)
    try:
        group.start("a", "b")
        leader = group.leader()
        leader.signal(signal.SIGKILL)
        other = group.wait_for_another(leader)
        group.check()
        leader.end()
        leader.join()
        group.wait_for_heir(redis_server)
        assert other.guard("standby", "--hand-over").code == 0
        group.wait_for_another(other)
        group.check()
    finally:
        group.end()


ENDS = (
    STAMPER
    + """\
import subprocess, threading
subprocess.Popen(["sleep", "1"])
threading.Thread(target=stamp, daemon=True).start()
time.sleep(0.3)
"""
)


def test_a_program_that_ended_well_is_relaunched(start: Callable[[str], Group]) -> None:
    """What it has left behind goes on as the program, for as long as that lives."""
    group = start(ENDS)
    leader = group.leader()
    wait_until(lambda: len({one.launch for one in group.lines()}) > 2, what="relaunches")
    assert leader.guard("stop", "web").code == 0
    group.check()


NOHUP = (
    STAMPER
    + """\
if os.fork():
    os._exit(0)  # as a shell leaves what it has started by nohup ... &
for _ in range(2):
    if os.fork() == 0:
        stamp()
while True:
    time.sleep(1)
"""
)


def test_what_a_launcher_left_is_fenced_with_all_its_workers(start: Callable[[str], Group]) -> None:
    """Its master is killed: its workers end before it is relaunched; the guard too: before another host's runs."""
    group = start(NOHUP)
    leader = group.leader()
    group.wait_for_more(20)
    first = group.lines()[-1]
    worker = process_table.facts(first.pid)
    assert worker is not None
    os.kill(worker.parent, signal.SIGKILL)
    wait_until(lambda: group.lines()[-1].launch != first.launch, what="the relaunch")
    assert not living(first.pid)
    leader.signal(signal.SIGKILL)
    group.wait_for_another(leader)
    group.check()


AT_ONCE = """\
import os, sys, time
from pathlib import Path
from restart_guard.config import load
from restart_guard.programs import actions, operate, processes, results
from restart_guard.programs.lifecycle import Command
processes.prepare()
(one,) = operate.chosen(load.load(Path(sys.argv[1]), dict(os.environ)), [])
for number in range(10):
    actions.act(one, Command.START, results.ActionOptions(settle=False))
    time.sleep(0.02 * number)
    begun = time.monotonic()
    assert actions.act(one, Command.STOP).ok
    assert time.monotonic() - begun < 5, number
"""


def test_what_starts_can_be_stopped_at_once(tmp_path: Path, redis_server: RedisServer) -> None:
    """Also while its fence has not started it yet: then the signal is the fence's."""
    group = Group(tmp_path, f'[redis]\nurl = "{redis_server.url}"\n')
    try:
        one = group.add("a")
        one.guard.config.write_text(one.guard.config.read_text().replace('timeout = "1s"', 'timeout = "9s"'))
        one.join()
        group.leader()
        assert one.guard("stop", "web").code == 0
        command = [sys.executable, "-c", AT_ONCE, str(one.guard.config)]
        done = subprocess.run(command, env=one.guard.environ, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    finally:
        group.end()


@pytest.mark.process
def test_a_watch_starts_it_as_soon_as_its_host_leads(guard: Guard) -> None:
    """A watch that has seen it down while there was no permit must not wait for the next sweep."""
    tmp_path = guard.directory
    (tmp_path / "run.py").write_text("import time\nopen('ready', 'w').close()\ntime.sleep(600)\n")
    guard.configure(
        '[targets.web]\nprogram = "run.py"\nmin_uptime = "100ms"\n[redis]\nurl = "redis://127.0.0.1:1"\n'
        '[standby]\ngroup = "g"\nlease = "10s"\nfence_store = "none"\n'
    )
    (tmp_path / "run.py.pid").write_text("1\n")
    with watching(guard):
        assert "this host is a standby" in guard("status").out
        assert not (tmp_path / "ready").exists()
        guard.state.mkdir(exist_ok=True)
        permit.write(guard.state / "standby-g.permit", permit.Permit(clock.boottime() + 4.0))
        wait_until((tmp_path / "ready").exists, what="the program", timeout=4)
        pid = int((tmp_path / "run.py.pid").read_text())
        wait_until(lambda: not living(pid), what="the end of the permit")
