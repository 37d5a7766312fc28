"""Faults with an aim: at the moment between a decision and the act that follows from it. With one Redis that never
fails, two hosts never run at once."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from restart_guard import clock, dial
from restart_guard.config.options import Redis, Times
from restart_guard.config.secrets import Secret
from restart_guard.errors import StoreError
from restart_guard.standby import lease
from restart_guard.standby.lease import Change, Hold, Mark, Sight, Span, View
from restart_guard.standby.lease_store import open_store
from tests.conftest import Database, Guard
from tests.support.hosts import Group, Host, of
from tests.support.net import Net
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, wait_until

ROOT = Path(__file__).parents[2]
TIMES = Times(lease=10.0, beat=1.0, fence=4.0, gap=2.0)


@pytest.fixture
def group(tmp_path: Path, redis_server: RedisServer) -> Iterator[Group]:
    one = Group(tmp_path, f'[redis]\nurl = "{redis_server.url}"\n', lease=6.0)
    yield one
    one.end()


def write(settings: Redis, change: Change) -> None:
    with open_store(settings, "g", lease_s=1.0, timeout_s=0.5) as store:
        store.change(change, 0, 0.1)


@pytest.mark.server
def test_a_lost_answer_is_no_conflict(redis_server: RedisServer) -> None:
    """The change took place, and the writer must not take it for refused: then it would use the number again."""
    new = Mark("a", "life", 1, lease_ms=1000)
    with Proxy(redis_server.port) as proxy:
        settings = Redis(url=Secret(key="u", text=f"redis://127.0.0.1:{proxy.port}/0"))
        proxy.lose_answer_to = b"EVAL"
        with pytest.raises(StoreError):
            write(settings, Change(None, new))
        with open_store(settings, "g", lease_s=1.0, timeout_s=0.5) as store:
            assert store.read()[0] == new.text
            assert not store.change(Change(None, new._replace(number=2)), 0, 0.1).took_place
            assert store.change(Change(new.text, new._replace(number=2)), 0, 0.1).took_place


def test_a_renewal_that_is_sent_after_its_deadline_gives_no_right() -> None:
    """The process was paused between the decision and the sending; its targets have been ended."""
    me = Mark("a", "life", 7, lease_ms=10_000)
    view = View(me, Hold(until=100.0, confirmed=True, claimed_at=50.0), Sight(me.text, None, 90.0, 95.0, 10.0))
    change = lease.wanted(view, 99.0, TIMES)
    assert change is not None
    assert lease.written(view, change, Span(99.5, 99.6), TIMES).may_act(102.0)
    late = lease.written(view, change, Span(100.5, 100.6), TIMES)
    assert not late.may_act(100.7)
    assert lease.why_lost(late, 100.7) != ""


def test_a_claim_whose_answer_was_lost_is_renewed() -> None:
    """The node sees its own mark in the next beat, and need not watch its own silence for a whole lease."""
    other = Mark("b", "x", 3, lease_ms=10_000)
    sight = Sight(other.text, None, seen_at=0.0, contact_at=19.0, watching_since=0.0)
    view = View(Mark("a", "life", 1), sight=sight)
    claim = lease.wanted(view, 20.0, TIMES)
    assert claim is not None
    view = lease.unclear(view, claim)
    view = lease.read(view, claim.new.text, Span(20.5, 20.6), TIMES)
    again = lease.wanted(view, 20.7, TIMES)
    assert again is not None
    assert again.expected == claim.new.text
    assert again.new.number > claim.new.number
    claimed = lease.written(view, again, Span(20.7, 20.8), TIMES)
    assert claimed.leads
    assert not claimed.may_act(20.9)  # it is confirmed a gap later, as every claim


@pytest.mark.parametrize(
    "text", ["||life|" + "9" * 5000 + "|1000", "|a|life|1|" + "9" * 30, "x" * 10_000_000, "|" * 9999]
)
def test_a_strangers_value_has_bounds(text: str) -> None:
    """It is watched like any other, and ends nobody; no number of it makes others wait for ever."""
    mark = Mark.parse(text)
    assert (mark.life, mark.lease) == ("?", 0.0)
    assert len(mark.node) <= 100


@pytest.mark.server
def test_a_permit_that_cannot_be_taken_back_keeps_the_lease(group: Group) -> None:
    """The state directory turns read-only: the permit and the note for the next process are valid on, so the lease is
    kept until both have run out, and a tick on the old leader starts nothing beside the heir's."""
    group.start("a", "b")
    leader = group.leader()
    (heir,) = group.others(leader)
    group.wait_for_more(100)
    state = leader.guard.state
    stop = threading.Event()

    def ticks() -> None:
        while not stop.is_set():
            leader.guard("restart")

    ticking = threading.Thread(target=ticks)
    if subprocess.run(["chattr", "+i", state, *state.glob("standby-*")], capture_output=True, check=False).returncode:
        pytest.skip("this file system, or this user, cannot make files immutable")
    try:
        ticking.start()
        leader.signal(signal.SIGTERM)
        group.wait_for_another(leader)
        assert group.leader() is heir
        group.wait_for_more(100)
    finally:
        subprocess.run(["chattr", "-i", state, *state.glob("standby-*")], check=True)
        stop.set()
        ticking.join()
    group.check()


@pytest.mark.server
def test_it_is_on_disk_before_the_release_is_sent(group: Group, redis_server: RedisServer) -> None:
    """Killed right after the sending, and started again where Redis cannot be reached: it does not go on."""
    with Proxy(redis_server.port) as proxy:
        leader = group.add("a")
        text = leader.guard.config.read_text()
        leader.guard.config.write_text(text.replace(redis_server.url, f"redis://127.0.0.1:{proxy.port}/0"))
        leader.join()
        assert group.leader() is leader
        group.add("b").join()
        group.wait_for_heir(redis_server)

        def kill_and_cut_off() -> None:
            leader.signal(signal.SIGKILL)
            proxy.is_cut = True

        proxy.on_seen = (b"released|", kill_and_cut_off)
        leader.signal(signal.SIGTERM)
        assert leader.process is not None
        leader.process.wait(20)
        leader.end()
        leader.join()
        group.wait_for_another(leader)
        group.wait_for_more(100)
        group.check()


@pytest.mark.process
def test_without_a_place_for_its_permit_it_says_so(guard: Guard) -> None:
    """One sentence and exit code 1, instead of waiting for itself."""
    guard.configure('[redis]\nurl = "redis://127.0.0.1:1/0"\n[standby]\ngroup = "g"\n[targets.web]\nprogram = "x.py"\n')
    guard.state.write_text("a file")
    with guard.popen("standby") as process:
        _, err = process.communicate(timeout=20)
    assert (process.returncode, "where nothing can be written" in err) == (1, True), err


@pytest.mark.process
def test_a_lock_on_a_removed_file_excludes_nobody(tmp_path: Path) -> None:
    """Who waited for it takes the one that is there now (``git clean``, ``rsync --delete``)."""
    program = tmp_path / "run.sh"
    program.write_text("x")
    script = (
        "import sys; from pathlib import Path; from restart_guard.programs.pidlock import PidLock\n"
        "with PidLock(Path(sys.argv[1])).held(wait_s=10):\n    print('held', flush=True); sys.stdin.readline()\n"
    )

    def holder() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", script, str(program)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")

    def let_go(process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write("\n")
            process.stdin.flush()

    def says(process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    first, waiting, new = holder(), None, None
    try:
        assert says(first) == "held"
        waiting = holder()
        lock = tmp_path / ".run.sh.lock"
        wait_until(lambda: _is_open_twice(lock), what="the second to wait for the lock")
        lock.unlink()
        new = holder()
        assert says(new) == "held"
        let_go(first)
        time.sleep(0.3)  # the waiting one has the old lock now, and must not act
        assert waiting.stdout is not None
        assert select.select([waiting.stdout], [], [], 0)[0] == []
        let_go(new)
        assert says(waiting) == "held"
        let_go(waiting)
        new.wait(10)
    finally:
        for process in (first, waiting, new):
            if process is not None:
                process.kill()
                process.communicate()


def _is_open_twice(path: Path) -> bool:
    inode = path.stat().st_ino
    found = 0
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            found += link.stat().st_ino == inode and str(link.readlink()) == str(path)
    return found == 2


def test_a_silent_name_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last good address stands in; without one, an error names the name server, in time."""
    release = threading.Event()
    answers = [[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]]

    def slow(*_: object, **__: object) -> object:
        if answers:
            return answers.pop()
        release.wait(30)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        good = dial._addresses("redis.example", 1, 1.0)
        begun = clock.monotonic()
        assert dial._addresses("redis.example", 1, 0.4) == good
        with pytest.raises(socket.gaierror, match="does the name server answer"):
            dial._addresses("other.example", 1, 0.2)
        assert clock.monotonic() - begun < 1.0
    finally:
        release.set()


@pytest.mark.server
def test_connections_are_kept(group: Group, redis_server: RedisServer) -> None:
    """From beat to beat, so that neither a name server nor a lost packet of a new one costs a beat; and one that was
    closed meanwhile costs none either."""
    with Proxy(redis_server.port) as proxy:
        group.lease = 2.0
        host = group.add("a")
        text = host.guard.config.read_text()
        host.guard.config.write_text(text.replace(redis_server.url, f"redis://127.0.0.1:{proxy.port}/0"))
        host.join()
        group.leader()
        launch = group.last()
        before = proxy.connected
        group.wait_for_more(300)
        assert proxy.connected - before <= 1  # of the listener
        for _ in range(10):
            with redis_server.client() as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            group.wait_for_more(20)
        last = group.last()
        assert launch is not None
        assert last is not None
        assert (last.launch, "cannot be read" in host.said()) == (launch.launch, False)


@pytest.mark.server
def test_a_lost_answer_of_a_claim_costs_a_beat(tmp_path: Path, redis_server: RedisServer) -> None:
    """The connection is made anew and the claim renewed, within the lease and what it takes to confirm it."""
    with Proxy(redis_server.port) as proxy:
        group = Group(tmp_path, f'[redis]\nurl = "redis://127.0.0.1:{proxy.port}/0"\n', lease=4.0)
        try:
            host = group.add("a")
            proxy.lose_answer_to = b"EVAL"  # the candidate's mark
            host.join()
            wait_until(lambda: proxy.lost, what="the first loss")
            begun = time.monotonic()
            wait_until(lambda: candidate(redis_server), what="the mark")
            proxy.lose_answer_to = b"EVAL"  # the claim
            group.leader()
            assert proxy.lost == 2
            assert group.lines()[0].at - begun < 1.5 * group.lease
        finally:
            group.end()


def candidate(server: RedisServer) -> bool:
    with server.client() as client:
        return (client.get("restart-guard:{g}:lease") or b"").startswith(b"candidate|")


@pytest.mark.server
def test_names_do_not_stop_a_group(tmp_path: Path) -> None:
    """The first of two name servers is silent from the start, then both are: it leads, goes on over a restart of Redis,
    and another takes over."""
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    with (
        Net("redis", "a", "b") as net,
        RedisServer("--protected-mode", "no", address=net.address["redis"]) as server,
        ExitStack() as stack,
    ):
        server.before = net.inside("redis")
        server.start()
        for name in ("a", "b"):
            net.ask_names_of(name, net.address["b" if name == "a" else "a"], net.address["redis"])
        command = [sys.executable, "-m", "tests.support.name_server", net.address["redis"], server.address]
        names = stack.enter_context(
            subprocess.Popen([*net.inside("redis"), *command], stdout=subprocess.PIPE, cwd=ROOT)
        )
        stack.callback(names.kill)
        assert names.stdout is not None
        assert names.stdout.readline() == b"ready\n"
        group = Group(tmp_path, f'[redis]\nurl = "redis://redis.example:{server.port}/0"\n', lease=2.0)
        group.place = lambda name: (net.inside(name), "")
        try:
            group.start("a", "b")
            leader = group.leader()
            group.wait_for_heir(server)
            names.send_signal(signal.SIGSTOP)
            server.kill()
            server.start()
            group.wait_for_more(300)
            group.wait_for_heir(server)
            leader = group.leader()
            moment = time.monotonic()
            leader.signal(signal.SIGKILL)
            other = group.wait_for_another(leader)
            assert group.taken_over_after(moment, other) < 1.2 * group.lease + 2.0
            group.check()
        finally:
            group.end()


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("percent", [10, 20])
def test_lost_packets(tmp_path: Path, percent: int) -> None:
    """A tenth of them, each way: a leader goes on, and another takes over within two leases; a fifth: somebody
    leads."""
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    with (
        Net("redis", "a", "b") as net,
        RedisServer("--protected-mode", "no", address=net.address["redis"]) as server,
    ):
        server.before = net.inside("redis")
        group = Group(tmp_path, f'[redis]\nurl = "{server.start().url}"\n', lease=6.0)
        group.place = lambda name: (net.inside(name), "")
        try:
            if not net.can_lose():
                pytest.skip("this kernel has no nftables to drop packets with")
            for name in net.address:
                net.lose(name, percent)
            group.start("a", "b")
            leader = group.leader()
            group.wait_for_more(500)
            leader = group.leader()
            moment = time.monotonic()
            leader.signal(signal.SIGKILL)
            other = group.wait_for_another(leader, timeout=60.0)
            if percent == 10:
                assert group.taken_over_after(moment, other) < 2 * group.lease + 1.0
            group.check()
        finally:
            group.end()


def has_token(host: Host, token: int) -> bool:
    """As its permit has it: on a busy machine it may come later than a beat, and what was started has none."""
    return bool(of(host.guard("standby", "--status", "--json"))["token"] == token)


@pytest.mark.parametrize("how", ["dropped", "restored from a backup, and Redis is empty"])
def test_a_token_is_never_given_twice(group: Group, redis_server: RedisServer, database: Database, how: str) -> None:
    """The highest stands in the lease and on each host as well as in the table; who was set back is told."""
    group.lease = 1.0
    server = database.server
    group.config += f'[mysql]\nsocket = "{server.socket}"\nuser = "root"\ndatabase = "{database.name}"\n'
    group.start("a")
    leader = group.leader()
    wait_until(partial(has_token, leader, 1), what="the first token")
    for highest in (2, 3):
        assert leader.guard("standby", "--hand-over").code == 0
        wait_until(partial(has_token, leader, highest), what=f"token {highest}")
    if how == "dropped":
        server.run(f"DROP TABLE {database.name}.guard_epoch")
    else:
        server.run(f"UPDATE {database.name}.guard_epoch SET epoch = 1")
        leader.end()
        with redis_server.client() as client:
            client.flushall()
        leader.join()
    wait_until(lambda: leader.guard("standby", "--hand-over").code == 0, what="it to hand over")
    wait_until(partial(has_token, leader, 4), what="token 4")
    given = [one.token for one in group.lines() if one.token != "-"]
    assert given == sorted(given)
    said = leader.said()
    assert "The table guard_epoch knew only lower fencing tokens than g has seen" in said, said
