"""What goes wrong on a host of a group: it is told, it keeps the lease from nobody who could lead, and whoever is asked
to leave leaves."""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from restart_guard import clock
from tests.support.hosts import STAMPER, Group, Host, of
from tests.support.pipes import full_pipe
from tests.support.servers import RedisServer, free_port, wait_until

LONELY = 59_321  # a uid that nothing else runs as


@pytest.fixture
def group(tmp_path: Path, redis_server: RedisServer) -> Iterator[Group]:
    one = Group(tmp_path, f'[redis]\nurl = "{redis_server.url}"\n')
    yield one
    one.end()


def told(host: Host) -> str:
    """What it said until it was killed."""
    assert host.process is not None
    host.process.kill()
    out, err = host.process.communicate()
    assert err == ""
    return out


def is_held_by(lock: Path, pid: int) -> bool:
    return lock.exists() and lock.read_text() == f"{pid}\n"


def events(host: Host) -> list[str]:
    return [event["detail"] for event in host.guard.history() if event["kind"] == "standby"]


def test_a_program_that_was_moved_away_holds_up_no_hand_over(group: Group, redis_server: RedisServer) -> None:
    """Its fence ends it when it cannot be stopped otherwise."""
    group.start("a", "b")
    leader = group.leader()
    group.wait_for_heir(redis_server)
    text = leader.guard.config.read_text()
    (leader.guard.directory / "app").mkdir()
    shutil.move(leader.guard.directory / "run.py", leader.guard.directory / "app/run.py")
    shutil.rmtree(leader.guard.directory / "app")
    leader.guard.config.write_text(text)
    leader.signal(signal.SIGTERM)
    assert leader.process is not None
    assert leader.process.wait(20) == 0
    assert group.wait_for_another(leader) is not leader
    group.check()


def test_who_is_asked_twice_leaves_at_once(group: Group) -> None:
    """Though a target takes its time: its fence ends it before another host leads."""
    group.program = STAMPER + "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nstamp()\n"
    for name in ("a", "b"):
        host = group.add(name)
        host.guard.config.write_text(host.guard.config.read_text().replace('timeout = "1s"', 'timeout = "60s"'))
        host.join()
    leader = group.leader()
    permit = leader.guard.state / "standby-g.permit"
    leader.signal(signal.SIGTERM)
    wait_until(lambda: permit.read_text().split()[2] == "0", what="the hand-over")
    leader.signal(signal.SIGTERM)
    assert leader.process is not None
    assert leader.process.wait(10) == 0
    group.wait_for_another(leader)
    group.check()


def test_a_permit_that_cannot_be_written_hands_over(group: Group) -> None:
    """The host that cannot write its permit lets another lead, and says why."""
    group.start("a", "b")
    leader = group.leader()
    permit = leader.guard.state / "standby-g.permit"
    permit.unlink()
    permit.mkdir()
    group.wait_for_another(leader)
    group.check()
    assert "it cannot run its targets" in told(leader)
    assert any("cannot be written: Is a directory" in text for text in events(leader))


@pytest.mark.parametrize("trouble", ["read-only folder", "busy lock"])
def test_a_pid_lock_that_cannot_be_written_hands_over(group: Group, redis_server: RedisServer, trouble: str) -> None:
    """Without one nobody would look after the target: that is told, and another host leads."""
    group.start("a", "b")
    leader = group.leader()
    (other,) = group.others(leader)
    group.wait_for_heir(redis_server)
    folder = other.guard.directory
    with ExitStack() as stack:
        if trouble == "busy lock":
            lock = stack.enter_context((folder / ".run.py.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            why = "web: Another process"
        else:
            if subprocess.run(["chattr", "+i", folder], capture_output=True, check=False).returncode:
                pytest.skip("this file system, or this user, cannot make files immutable")
            stack.callback(lambda: subprocess.run(["chattr", "-i", folder], check=True))
            why = "web: "
        assert leader.guard("standby", "--hand-over").code == 0
        kept = other.guard.state / "standby-g.json"
        wait_until(lambda: json.loads(kept.read_text())["failures"], what="the other to give up", timeout=30)
        group.wait_for_more(50)
        assert group.leader() is leader
        said = other.said()
        assert f"it cannot run its targets: {why}" in said
    group.check()


def test_mysql_that_hangs_holds_up_no_takeover(group: Group, redis_server: RedisServer) -> None:
    """The token is waited for a beat at most, in a takeover and in a hand-over; that there is none is told."""
    group.lease = 3.0
    with socket.create_server(("127.0.0.1", 0)) as hung:  # it takes connections, and says nothing
        port = hung.getsockname()[1]
        group.config += f'[mysql]\nhost = "127.0.0.1"\nport = {port}\nuser = "u"\npassword = "p"\ndatabase = "d"\n'
        group.start("a", "b")
        leader = group.leader()
        group.wait_for_heir(redis_server)
        moment = time.monotonic()
        leader.signal(signal.SIGTERM)
        other = group.wait_for_another(leader)
        assert group.taken_over_after(moment, other) < group.lease
        leader.end()
        leader.join()
        group.wait_for_heir(redis_server)
        moment = time.monotonic()
        other.signal(signal.SIGKILL)
        group.wait_for_another(other)
        assert group.taken_over_after(moment, leader) < 1.2 * group.lease + 2.0
        assert "without a fencing token: MySQL has not answered yet" in leader.said()
    group.check()


def test_a_leader_that_was_not_seen_for_long(group: Group, redis_server: RedisServer) -> None:
    """How long nobody led counts from its last renewal, though its value was read again when Redis was back."""
    group.start("a", "b")
    leader = group.leader()
    (other,) = group.others(leader)
    wait_until((other.guard.state / "standby-g.json").exists, what="the other to see it")
    time.sleep(1.5 * group.lease)
    all_dead = time.monotonic()
    leader.signal(signal.SIGKILL)
    time.sleep(0.1)  # what it has sent is there
    redis_server.signal(signal.SIGSTOP)
    try:
        time.sleep(5 * group.lease)
    finally:
        redis_server.signal(signal.SIGCONT)
    group.wait_for_another(leader)
    gap = time.monotonic() - all_dead
    (text,) = [text for text in wait_until(lambda: events(other), what="the event") if "TAKEOVER" in text]
    told_s = float(re.search(r"after about ([0-9.]+)s", text).group(1))  # type: ignore[union-attr]
    assert 5 * group.lease < told_s <= gap + 1


def test_a_watch_that_cannot_start_hands_over(group: Group) -> None:
    """Its config was broken meanwhile; the one in memory is good, but the watch reads the file."""
    group.start("a", "b")
    leader = group.leader()
    (other,) = group.others(leader)
    other.guard.config.write_text("no config\n")
    leader.signal(signal.SIGKILL)
    leader.end()
    kept = other.guard.state / "standby-g.json"
    wait_until(lambda: json.loads(kept.read_text())["failures"], what="the other to give up", timeout=30)
    leader.join()
    group.wait_for_more(50)
    assert group.leader() is leader
    assert other.process is not None
    other.process.kill()
    out, _ = other.process.communicate()
    assert "it cannot run its targets: its watch ended 3 times at once, the last time with exit status 2" in out
    assert json.loads(kept.read_text())["rest_until"] > clock.boottime()
    group.check()


@pytest.mark.server
def test_sentinels_that_do_not_answer_keep_nobody_from_leading(tmp_path: Path) -> None:
    """Two of three hang; the third is asked first from then on."""
    with RedisServer() as server, RedisServer() as hung, RedisServer() as hung_too:
        server.start()
        sentinel = RedisServer()
        with sentinel:
            sentinel.port = free_port()
            config = sentinel.directory / "sentinel.conf"
            config.write_text(f"port {sentinel.port}\nsentinel monitor mymaster 127.0.0.1 {server.port} 1\n")
            sentinel.launch("redis-sentinel", str(config))
            for one in (hung, hung_too):
                one.start().signal(signal.SIGSTOP)
            places = ", ".join(f'"127.0.0.1:{one.port}"' for one in (hung, hung_too, sentinel))
            text = f'min_acks = 0\n[redis]\nsentinels = [{places}]\nservice = "mymaster"\n'
            group = Group(tmp_path, text, 2.0)
            try:
                group.start("a")
                group.leader()
                group.wait_for_more(300)
            finally:
                group.end()


def test_a_hand_over_outlasts_the_minute(group: Group) -> None:
    """Asked for shortly before the end of --for it is finished by the process that was asked."""
    group.program = STAMPER + "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nstamp()\n"
    host = group.add("a")
    host.guard.config.write_text(host.guard.config.read_text().replace('timeout = "1s"', 'timeout = "4s"'))
    host.join("--for", "10s")
    begun = time.monotonic()
    group.leader()
    group.start("b")
    time.sleep(max(0.0, begun + 7.5 - time.monotonic()))
    assert host.guard("standby", "--hand-over").code == 0
    assert host.process is not None
    assert host.process.wait(20) == 0
    host.end()
    host.join()
    assert group.wait_for_another(host).name == "b"
    group.check()


def test_under_cron_the_next_goes_on_watching_and_tells_nothing_twice(group: Group) -> None:
    """The lease is longer than one of them lives; as from cron, each waits for the one before to end."""
    group.lease = 6.0
    host = group.add("a")
    with ExitStack() as stack:
        processes = [stack.enter_context(host.guard.popen("standby", "--for", "4s"))]
        taking_part = host.guard.state / "locks/standby-g"
        while not group.lines() or len(processes) < 4:
            wait_until(partial(is_held_by, taking_part, processes[-1].pid), what="it to take part")
            assert len(processes) < 20
            processes.append(stack.enter_context(host.guard.popen("standby", "--for", "6s")))
            assert processes[-2].wait(20) == 0
        assert processes[-1].wait(20) == 0
    assert [text.partition(";")[0] for text in events(host)] == ["[TAKEOVER] g: a is the first to lead"]


@pytest.mark.parametrize("name", ["irm/prod", "一" * 60])
def test_a_group_may_have_any_name(group: Group, name: str) -> None:
    """Slashes and long Chinese names work, although files are named after the group."""
    host = group.add("a")
    host.guard.config.write_text(host.guard.config.read_text().replace('group = "g"', f'group = "{name}"'))
    host.join()
    group.leader()
    assert of(host.guard("standby", "--status", "--json"))["role"] == "leading"
    waiting = host.guard.popen("standby")
    with waiting:
        locks = host.guard.state / "locks"
        mark = f"{waiting.pid}\n"
        wait_until(lambda: mark in [one.read_text() for one in locks.glob("next-*")], what="the second to wait")
        assert host.guard("standby").code == 75
        waiting.kill()
    assert "hands over" in host.guard("standby", "--hand-over").out


@pytest.mark.server
def test_a_redis_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    """A Redis that is down gives one line, not one a beat."""
    group = Group(tmp_path, f'[redis]\nurl = "redis://127.0.0.1:{free_port()}/0"\n')
    try:
        group.start("a")
        process = group.hosts["a"].process
        assert process is not None
        assert process.stdout is not None
        assert "takes part" in process.stdout.readline()
        assert "The lease cannot be read or renewed: " in process.stdout.readline()
        time.sleep(1)
        assert told(group.hosts["a"]) == ""
    finally:
        group.end()


@pytest.mark.server
def test_a_lost_lease_is_not_handed_on(tmp_path: Path) -> None:
    """At no moment does a leader that lost it leave a note by which the next process would go on with its targets."""
    with RedisServer() as server:
        group = Group(tmp_path, f'[redis]\nurl = "{server.start().url}"\n', 2.0)
        try:
            group.start("a")
            note = group.leader().guard.state / "standby-g.json"
            server.signal(signal.SIGSTOP)
            seen = []
            begun = time.monotonic()
            while time.monotonic() - begun < 1.5 * group.lease:
                kept = json.loads(note.read_text())
                seen.append((kept["view"][1][0] > 0, kept["acts"]))
            assert (True, True) in seen
            assert (False, False) in seen
            assert (False, True) not in seen
        finally:
            group.end()


def test_a_log_that_nobody_reads_holds_up_nothing(group: Group) -> None:
    """The beats go on, and it leaves when it is asked."""
    host = group.add("a")
    with full_pipe() as pipe:
        host.join(output=pipe)
        group.leader()
        group.wait_for_more(200)
        host.signal(signal.SIGTERM)
        assert host.process is not None
        assert host.process.wait(20) == 0
    group.check()


def test_what_was_stopped_on_a_standby_stays_down_there(group: Group) -> None:
    """Also where it never ran before."""
    group.start("a", "b")
    leader = group.leader()
    (other,) = group.others(leader)
    assert other.guard("stop", "web").code == 0
    count = len(group.lines())
    leader.signal(signal.SIGTERM)
    wait_until(lambda: of(other.guard("standby", "--status", "--json"))["role"] == "leading", what="the takeover")
    time.sleep(1)
    assert {one.host for one in group.lines()[count:]} <= {leader.name}
    assert other.guard("start", "web").code == 0
    assert group.wait_for_another(leader) is other


@pytest.mark.server
def test_no_more_processes_are_no_bug(redis_server: RedisServer) -> None:
    """At whatever limit (ulimit -u, pids of a container): a sentence, and no traceback."""
    if os.geteuid() != 0:
        pytest.skip("only root can become a user of its own")
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "own"
        own.mkdir()
        os.chown(own, LONELY, LONELY)
        os.chmod(folder, 0o755)  # noqa: PTH101 (its name is a text)
        config = Path(folder) / "config.toml"
        config.write_text(f'[redis]\nurl = "{redis_server.url}"\n[standby]\ngroup = "g"\nlease = "500ms"\n')
        for limit in (1, 2, 3):
            script = (
                "import os, resource, sys; from restart_guard.entry import run\n"
                f"words = ['-c', {str(config)!r}, 'standby', '--for', '1s']\n"
                "run(words)\n"  # imports everything: that user may not read Python's folder
                f"os.environ['XDG_STATE_HOME'] = {str(own)!r}\n"
                f"os.setgroups([]); os.setgid({LONELY}); os.setuid({LONELY})\n"
                f"resource.setrlimit(resource.RLIMIT_NPROC, ({limit}, {limit}))\n"
                "sys.exit(run(words))\n"
            )
            environment = os.environ | {"XDG_STATE_HOME": f"{folder}/root", "HOME": folder}
            done = subprocess.run(
                [sys.executable, "-c", script],
                env=environment,
                cwd=folder,
                capture_output=True,
                encoding="utf-8",
                check=False,
            )
            said = done.stdout + done.stderr
            assert "no more processes or threads are allowed here" in said, said
            assert "Traceback" not in said
            assert "bug" not in said
            assert done.returncode in (0, 1)
