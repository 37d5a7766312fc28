"""How long nobody runs the targets when a host of a group fails.

    python -m tests.benchmarks.failover [LEASE]            side by side with a lock in Redis; ten minutes
    python -m tests.benchmarks.failover --faults [LEASE]   a table of faults on the way; six minutes

Two hosts, a Redis, a lease of three seconds, or so many as are given; the targets stamp the clock every 10 ms. From the
fault to the first stamp on the other host, ten rounds each, median and worst, in seconds and in leases:

- kill -9 of the guard and of all that it runs
- a clean hand-over (SIGTERM)
- a partition: the leading host's network link goes down (as root, in network namespaces)

Wanted: a hand-over within a second, the others within the lease, two beats and a second for the start. Side by side
with what is often used instead: a loop with SET NX PX and a renewal of the same lease each beat (ratio 1). It is as
quick, but its targets outlive it, and a partition makes two of them: how long both ran is told, and for a group it has
to be 0.

With ``--faults`` the leader and all that it runs are killed while something else is wrong too: the standby misses a
beat, its claim's answer is lost, packets are lost (by nftables, at a lease of ten seconds, since TCP sends a packet
again after 0.2 s), MySQL hangs, no name server answers. Wanted: at most two leases with a tenth of the packets lost.
"""

import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.support.hosts import SIMPLE, Group, Host, Stamp
from tests.support.net import Net
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, wait_until

ROOT = Path(__file__).parents[2]
ROUNDS = 10
LEASE_S = 3.0
_PATIENCE_S = 30.0
# Taken from what such scripts look like; its target is told to end when it sees that it has lost the lock.
_LOOP = """\
import os, signal, subprocess, sys, time
import redis
url, name, lease, *command = sys.argv[1:]
lease = float(lease)
client = redis.Redis.from_url(url, socket_timeout=lease / 2, socket_connect_timeout=lease / 2)
running = None
def leave(*_):
    if running is not None:
        running.terminate()
        running.wait()
        client.delete("lock")
    sys.exit()
signal.signal(signal.SIGTERM, leave)
while True:
    try:
        mine = client.set("lock", name, nx=True, px=round(lease * 1000)) or client.get("lock") == name.encode()
        if mine:
            client.pexpire("lock", round(lease * 1000))
    except redis.RedisError:
        mine = None
    if mine and running is None:
        running = subprocess.Popen(command)
    elif mine is False and running is not None:
        running.terminate()
        running.wait()
        running = None
    time.sleep(lease / 10)
"""


class Round(NamedTuple):
    """Seconds until another host's target ran, and for which both did."""

    takeover: float
    both: float


class Hosts(Protocol):
    """Two hosts, a and b, of which one leads."""

    def lines(self) -> list[Stamp]: ...
    def kill(self, name: str) -> None: ...
    def ask_to_leave(self, name: str) -> None: ...
    def join(self, name: str) -> None: ...


class Ours:
    def __init__(self, group: Group) -> None:
        self._group = group
        for name in ("a", "b"):
            group.add(name)
        self.lines = group.lines

    def _host(self, name: str) -> Host:
        return self._group.hosts[name]

    def kill(self, name: str) -> None:
        self._host(name).signal(signal.SIGKILL)
        self._host(name).guard("kill", "web")

    def ask_to_leave(self, name: str) -> None:
        self._host(name).signal(signal.SIGTERM)

    def join(self, name: str) -> None:
        if not self._host(name).takes_part:
            self._host(name).end()
            self._host(name).join()


class Loop:
    def __init__(self, group: Group, url: str) -> None:
        self._group = group
        self._url = url
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        (group.folder / "loop.py").write_text(_LOOP)
        (group.folder / "run.py").write_text(SIMPLE)
        self.lines = group.lines

    def kill(self, name: str) -> None:
        """And its target by hand: nobody else would."""
        self._running[name].kill()
        self._running[name].wait()
        self.end(name)

    def ask_to_leave(self, name: str) -> None:
        self._running[name].terminate()

    def join(self, name: str) -> None:
        if name in self._running and self._running[name].poll() is None:
            return
        before = self._group.place(name)[0] if self._group.place is not None else []
        script, program = self._group.folder / "loop.py", self._group.folder / "run.py"
        target = [sys.executable, str(program), str(self._group.stamps), name]
        command = [*before, sys.executable, str(script), self._url, name, str(self._group.lease), *target]
        self._running[name] = subprocess.Popen(command, env=os.environ | {"RESTART_GUARD_LAUNCH": name})

    def end(self, *names: str) -> None:
        for pid in {one.pid for one in self.lines() if one.host in (names or ("a", "b"))}:
            with suppress(OSError):
                if str(self._group.stamps).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        self.end()


def since(hosts: "Hosts | Trial", begun: int, than: str) -> list[Stamp]:
    """The stamps of another host."""
    return [one for one in hosts.lines()[begun:] if one.host != than]


def measure(hosts: Hosts, lease: float, fault: Callable[[str], None], heal: Callable[[str], None]) -> list[Round]:
    found = []
    for name in ("a", "b"):
        hosts.join(name)
    for number in range(ROUNDS):
        wait_until(hosts.lines, what="a leader", timeout=_PATIENCE_S + 2 * lease)
        time.sleep(lease * (1.2 + number / ROUNDS / 10))  # the other has watched; at each phase of a beat
        leader = hosts.lines()[-1].host
        begun, moment = len(hosts.lines()), time.monotonic()
        fault(leader)
        others = partial(since, hosts, begun, leader)
        taken = wait_until(others, what="a takeover", timeout=_PATIENCE_S + lease)[0].at
        time.sleep(lease)
        last = max((one.at for one in hosts.lines() if one.host == leader), default=0.0)
        found.append(Round(taken - moment, max(0.0, last - taken)))
        heal(leader)
        time.sleep(lease / 2)
    return found


def tell(what: str, results: list[list[Round]], lease: float) -> None:
    for name, rounds in zip(("restart-guard", "SET NX PX"), results, strict=True):
        seconds = [one.takeover for one in rounds]
        median, worst = statistics.median(seconds), max(seconds)
        ratio = median / statistics.median(one.takeover for one in results[1])
        both = max(one.both for one in rounds)
        print(
            f"{what:<12} {name:<14} median {median:6.2f} s ({median / lease:.2f} leases)  worst {worst:6.2f} s "
            f"({worst / lease:.2f})  {ratio:5.2f} x  both ran {both:.2f} s",
            flush=True,
        )


def on_one_server(lease: float) -> None:
    for what in ("kill -9", "hand-over"):
        results = []
        for build in (Ours, Loop):
            with RedisServer() as server, tempfile.TemporaryDirectory() as folder:
                url = server.start().url
                group = Group(Path(folder), f'[redis]\nurl = "{url}"\n', lease)
                hosts: Ours | Loop = Ours(group) if build is Ours else Loop(group, url)
                try:
                    fault = hosts.kill if what == "kill -9" else hosts.ask_to_leave
                    results.append(measure(hosts, lease, fault, partial(wait_and_join, hosts)))
                finally:
                    close(group, hosts)
        tell(what, results, lease)


def wait_and_join(hosts: Hosts, name: str) -> None:
    time.sleep(0.2)
    hosts.join(name)


def place(net: Net, name: str) -> tuple[list[str], str]:
    return net.inside(name), ""


def cut_off(lease: float) -> None:
    results = []
    for build in (Ours, Loop):
        with (
            Net("redis", "a", "b") as net,
            RedisServer("--protected-mode", "no", address=net.address["redis"]) as server,
            tempfile.TemporaryDirectory() as folder,
        ):
            server.before = net.inside("redis")
            url = server.start().url
            group = Group(Path(folder), f'[redis]\nurl = "{url}"\n', lease)
            group.place = partial(place, net)
            hosts: Ours | Loop = Ours(group) if build is Ours else Loop(group, url)
            try:
                results.append(measure(hosts, lease, net.cut, net.heal))
            finally:
                close(group, hosts)
    tell("partition", results, lease)


class Wrong(NamedTuple):
    """Something that is wrong beside the leader's death."""

    name: str
    lease: float
    rounds: int
    build: Callable[[ExitStack, float], "Trial"]


class Trial:
    """Two hosts, each with a proxy between it and Redis, or in a network namespace of its own. ``before`` is called
    when there is an heir, ``meanwhile`` when the leader has died."""

    def __init__(self, stack: ExitStack, lease: float, *, net: Net | None = None, names: bool = False) -> None:
        self.stack = stack
        self.net = net
        options = ("--protected-mode", "no") if net is not None else ()
        address = net.address["redis"] if net is not None else "127.0.0.1"
        self.server = stack.enter_context(RedisServer(*options, address=address))
        self.server.before = net.inside("redis") if net is not None else []
        self.server.start()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.proxies = {name: stack.enter_context(Proxy(self.server.port)) for name in ("a", "b")}
        self.host = "redis.example" if names else address
        self.group = Group(folder, "", lease)
        self.group.place = self.place
        stack.callback(self.group.end)
        self.before: Callable[[Host], None] = lambda _heir: None
        self.meanwhile: Callable[[Host], None] = lambda _heir: None

    def place(self, name: str) -> tuple[list[str], str]:
        port = self.server.port if self.net is not None else self.proxies[name].port
        return [] if self.net is None else self.net.inside(name), f'[redis]\nurl = "redis://{self.host}:{port}/0"\n'

    def round(self) -> float:
        """Leases until the other host's target ran."""
        group = self.group
        for name in ("a", "b"):
            if name not in group.hosts:
                group.add(name)
            if not group.hosts[name].takes_part:
                group.hosts[name].end()
                group.hosts[name].join()
        time.sleep(group.lease)
        wait_until(partial(self.has_heir, len(group.lines())), what="a leader and an heir", timeout=20 * group.lease)
        leader = group.leader()
        (heir,) = group.others(leader)
        self.before(heir)
        begun, moment = len(group.lines()), time.monotonic()
        leader.signal(signal.SIGKILL)
        leader.guard("kill", "web")
        self.meanwhile(heir)
        others = partial(since, self, begun, leader.name)
        taken: float = wait_until(others, what="a takeover", timeout=_PATIENCE_S + 10 * group.lease)[0].at
        group.check()
        assert all(proxy.lose_answer_to is None for proxy in self.proxies.values())  # it was lost
        return (taken - moment) / group.lease

    def lines(self) -> list[Stamp]:
        return self.group.lines()

    def has_heir(self, begun: int) -> bool:
        with self.server.client() as client:
            return bool(client.keys("*heir*")) and len(self.group.lines()) > begun


def nothing_else(stack: ExitStack, lease: float) -> Trial:
    return Trial(stack, lease)


def missed_beat(stack: ExitStack, lease: float) -> Trial:
    trial = Trial(stack, lease)

    def meanwhile(heir: Host) -> None:
        time.sleep(random.random() * 0.7 * lease)
        heir.signal(signal.SIGSTOP)
        time.sleep(0.09 * lease)  # one and a half
        heir.signal(signal.SIGCONT)

    trial.meanwhile = meanwhile
    return trial


def lost_claim(stack: ExitStack, lease: float) -> Trial:
    """The heir's next change is its claim: it takes place, and its answer does not come."""
    trial = Trial(stack, lease)

    def before(heir: Host) -> None:
        trial.proxies[heir.name].lose_answer_to = b"EVAL"

    trial.before = before
    return trial


def lost_packets(percent: int, stack: ExitStack, lease: float) -> Trial:
    net = stack.enter_context(Net("redis", "a", "b"))
    for name in net.address:
        net.lose(name, percent)
    return Trial(stack, lease, net=net)


def hung_mysql(stack: ExitStack, lease: float) -> Trial:
    """It takes connections, and says nothing."""
    hung = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
    trial = Trial(stack, lease)
    login = 'user = "u"\npassword = "p"\ndatabase = "d"\n'
    trial.group.config = f'[mysql]\nhost = "127.0.0.1"\nport = {hung.getsockname()[1]}\n{login}'
    return trial


def silent_names(stack: ExitStack, lease: float) -> Trial:
    net = stack.enter_context(Net("redis", "a", "b"))
    address = net.address["redis"]
    for name in ("a", "b"):
        net.ask_names_of(name, address)
    command = [*net.inside("redis"), sys.executable, "-m", "tests.support.name_server", address, address]
    server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT))
    stack.callback(server.kill)
    assert server.stdout is not None
    server.stdout.readline()
    trial = Trial(stack, lease, net=net, names=True)
    trial.before = lambda _heir: server.send_signal(signal.SIGSTOP)
    # When all is over, the next round's host can start.
    trial.meanwhile = lambda _heir: threading.Timer(3 * lease, server.send_signal, [signal.SIGCONT]).start()
    return trial


def faults(lease: float) -> list[Wrong]:
    found = [
        Wrong("nothing else", lease, ROUNDS, nothing_else),
        Wrong("a beat missed", lease, ROUNDS, missed_beat),
        Wrong("claim's answer lost", lease, ROUNDS, lost_claim),
        Wrong("MySQL hangs", lease, ROUNDS, hung_mysql),
        Wrong("no name server", lease, ROUNDS, silent_names),
    ]
    with Net("probe") as net:
        if not net.can_lose():
            print("lost packets: not tried, this kernel has no nftables")
            return found
    long = max(lease, 10.0)
    return [*found, *(Wrong(f"{n} % lost", long, 6, partial(lost_packets, n)) for n in (5, 10, 20))]


def try_one(wrong: Wrong) -> list[float]:
    with ExitStack() as stack:
        trial = wrong.build(stack, wrong.lease)
        return [trial.round() for _ in range(wrong.rounds)]


def table(lease: float) -> None:
    every = faults(lease)
    with ThreadPoolExecutor(4) as pool:  # they mostly wait
        for wrong, leases in zip(every, pool.map(try_one, every), strict=True):
            print(
                f"{wrong.name:<20} lease {wrong.lease:4g} s  {wrong.rounds:2} rounds  "
                f"median {statistics.median(leases):5.2f} leases  worst {max(leases):5.2f}",
                flush=True,
            )


def close(group: Group, hosts: Ours | Loop) -> None:
    if isinstance(hosts, Loop):
        hosts.close()
    else:
        group.end()


def main() -> None:
    words = [word for word in sys.argv[1:] if word != "--faults"]
    lease = float(words[0]) if words else LEASE_S
    if "--faults" in sys.argv:
        if os.geteuid() != 0:
            sys.exit("only root can make network namespaces")
        table(lease)
        return
    print(f"lease {lease:g} s, beat {lease * 0.06:g} s, {ROUNDS} rounds each")
    on_one_server(lease)
    if os.geteuid() == 0:
        cut_off(lease)
    else:
        print("partition: only root can make network namespaces")


if __name__ == "__main__":
    main()
