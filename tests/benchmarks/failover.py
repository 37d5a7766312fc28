"""How long nobody runs the targets when a host of a group fails. By hand: python -m tests.benchmarks.failover [LEASE]

Two hosts, a Redis, a lease of three seconds, or so many as are given; the targets stamp the clock every 10 ms. From the
fault to the first stamp on the other host, ten rounds each, median and worst, in seconds and in leases:

- kill -9 of the guard and of all that it runs
- a clean hand-over (SIGTERM)
- a partition: the leading host's network link goes down (as root, in network namespaces)

Wanted: a hand-over within a second, the others within the lease, two beats and a second for the start. Side by side
with what is often used instead: a loop with SET NX PX and a renewal of the same lease each beat (ratio 1). It is as
quick, but its targets outlive it, and a partition makes two of them: how long both ran is told, and for a group it has
to be 0. Takes about ten minutes.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.support.hosts import SIMPLE, Group, Host, Stamp
from tests.support.net import Net
from tests.support.servers import RedisServer, wait_until

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


def since(hosts: Hosts, begun: int, than: str) -> list[Stamp]:
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


def close(group: Group, hosts: Ours | Loop) -> None:
    if isinstance(hosts, Loop):
        hosts.close()
    else:
        group.end()


def main() -> None:
    lease = float(sys.argv[1]) if len(sys.argv) > 1 else LEASE_S
    print(f"lease {lease:g} s, beat {lease / 10:g} s, {ROUNDS} rounds each")
    on_one_server(lease)
    if os.geteuid() == 0:
        cut_off(lease)
    else:
        print("partition: only root can make network namespaces")


if __name__ == "__main__":
    main()
