"""What can befall a group of hosts and its Redis, on real processes and servers; each fault heals what it broke."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from tests.support.hosts import Group, Host
from tests.support.net import Net
from tests.support.servers import RedisServer, Sentinels, wait_until
from tests.support.wall_clock import WallClock

HOUR = 3600


class Scene:
    """A group that runs, and all that it stands on."""

    def __init__(self, group: Group, servers: list[RedisServer], sentinels: Sentinels | None = None) -> None:
        self.group = group
        self.servers = servers
        self.sentinels = sentinels
        self.net: Net | None = None
        self.chance = random.Random(time.time_ns())
        self.clocks: dict[str, WallClock] = {}

    @property
    def server(self) -> RedisServer:
        """The master, as the Sentinels have it."""
        if self.sentinels is None:
            return self.servers[0]
        port = int(self.sentinels.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1])
        return next(one for one in self.servers if one.port == port)

    def pause(self, most_leases: float = 1.0) -> None:
        """A moment of chance."""
        time.sleep(self.chance.random() * most_leases * self.group.lease)

    def suffer(self, fault: Callable[["Scene", Host], None]) -> None:
        """A fault at some moment; then somebody goes on, all take part again, and there were never two."""
        leader = self.group.leader()
        self.pause()
        fault(self, leader)
        self.group.wait_for_more(50, timeout=60)
        for host in self.group.hosts.values():
            if not host.takes_part:
                host.end()
                host.join()
        self.group.check()


def guard_killed(scene: Scene, leader: Host) -> None:
    """Its targets still run, and must be down before another host may start its own."""
    leader.signal(signal.SIGKILL)
    scene.group.wait_for_another(leader)


def guard_stopped(scene: Scene, leader: Host) -> None:
    """For three leases, as a host that hangs; then it goes on, and must not believe that it leads."""
    leader.signal(signal.SIGSTOP)
    scene.group.wait_for_another(leader)
    time.sleep(2 * scene.group.lease)
    leader.signal(signal.SIGCONT)


def all_killed(scene: Scene, leader: Host) -> None:
    """The guard, and the fence with the target."""
    leader.signal(signal.SIGKILL)
    leader.guard("kill", "web")
    scene.group.wait_for_another(leader)


def fence_stopped(scene: Scene, leader: Host) -> None:
    """And the guard killed: nobody is left but the fence's second process."""
    os.kill(fence_of(leader), signal.SIGSTOP)
    leader.signal(signal.SIGKILL)
    scene.group.wait_for_another(leader)


def fence_of(host: Host) -> int:
    return int((host.guard.directory / "run.py.pid").read_text())


def flushed(scene: Scene, _leader: Host) -> None:
    with scene.server.client() as client:
        client.flushall()


def restarted_empty(scene: Scene, _leader: Host) -> None:
    server = scene.server
    server.kill()
    scene.pause(0.5)
    server.start()


def hung(scene: Scene, _leader: Host) -> None:
    """For less than a fence, or more."""
    server = scene.server
    server.signal(signal.SIGSTOP)
    scene.pause(1.5)
    server.signal(signal.SIGCONT)


def server_clock(scene: Scene, leader: Host) -> None:
    """An hour on or back, and the leader dies: by a TTL the lease would be over at once, or never."""
    clock = scene.clocks["redis"]
    clock.set(scene.chance.choice([-HOUR, HOUR]))
    scene.pause(0.5)
    guard_killed(scene, leader)
    clock.set(0)


def host_clocks(scene: Scene, leader: Host) -> None:
    """Each host's its own way, and the leader dies."""
    for name in scene.group.hosts:
        scene.clocks[name].set(scene.chance.choice([-HOUR, 0, HOUR]))
    scene.pause(0.5)
    guard_killed(scene, leader)
    for name in scene.group.hosts:
        scene.clocks[name].set(0)


ONE_SERVER = [
    *(guard_killed, guard_stopped, all_killed, fence_stopped),
    *(flushed, restarted_empty, hung, server_clock, host_clocks),
]


@contextmanager
def one_server(folder: Path, *names: str) -> Iterator[Scene]:
    """Redis and all hosts have wall clocks of their own."""
    with RedisServer() as server:
        group = Group(folder, f'[redis]\nurl = "{server.url}"\n')
        scene = Scene(group, [server])
        scene.clocks["redis"] = WallClock(server.directory)
        server.environ = scene.clocks["redis"].environ
        server.start()
        try:
            for name in names:
                host = group.add(name)
                scene.clocks[name] = WallClock(host.guard.directory)
                host.environ = scene.clocks[name].environ
                host.join()
            yield scene
        finally:
            group.end()


def master_killed(scene: Scene, _leader: Host) -> None:
    old = scene.server
    old.kill()
    wait_until(lambda: scene.server is not old, what="the failover", timeout=40)
    come_back(scene, old)


def failed_over(scene: Scene, _leader: Host) -> None:
    """By an operator, while the master lives."""
    assert scene.sentinels is not None
    old = scene.server
    scene.sentinels.ask("SENTINEL", "FAILOVER", "mymaster")
    wait_until(lambda: scene.server is not old, what="the failover", timeout=40)
    come_back(scene, old)


def write_lost(scene: Scene, leader: Host) -> None:
    """The lease changes hands while the replicas hang; then the master dies, and what they know is what counts."""
    old = scene.server
    for one in scene.servers:
        if one is not old:
            one.signal(signal.SIGSTOP)
    leader.signal(signal.SIGTERM)
    scene.pause(1.5)
    old.kill()
    for one in scene.servers:
        if one is not old:
            one.signal(signal.SIGCONT)
    wait_until(lambda: scene.server is not old, what="the failover", timeout=120)
    come_back(scene, old)


def come_back(scene: Scene, old: RedisServer) -> None:
    """As a replica of the new master, and not as the master that it was."""
    assert scene.sentinels is not None
    master = scene.server
    if old.process is None:
        old.start()
    with old.client() as client:
        client.replicaof(master.address, master.port)
    wait_until(lambda: replicas_of(master) == len(scene.servers) - 1, what="the replicas", timeout=40)
    # The next failover must find them: those that hang or were lately down are not chosen.
    wait_until(lambda: len(well_replicas(scene.sentinels)) == len(scene.servers) - 1, what="the Sentinels", timeout=60)


def replicas_of(master: RedisServer) -> int:
    try:
        with master.client() as client:
            return int(client.info("replication")["connected_slaves"])
    except redis.RedisError:
        return 0


def well_replicas(sentinels: Sentinels | None) -> list[str]:
    assert sentinels is not None
    found = sentinels.ask("SENTINEL", "REPLICAS", "mymaster")
    rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in found]
    return [row[b"name"] for row in rows if row[b"flags"] == b"slave" and row[b"master-link-status"] == b"ok"]


SENTINELS = [master_killed, failed_over, write_lost]


@contextmanager
def under_sentinels(folder: Path, *names: str, acks: int | None) -> Iterator[Scene]:
    """A master with two replicas. Without acknowledgements writes can be lost."""
    with ExitStack() as stack:
        servers = [stack.enter_context(RedisServer()).start() for _ in range(3)]
        group, sentinels = _replicated(stack, folder, servers)
        if acks is not None:
            group.config = f"min_acks = {acks}\n{group.config}"
        group.start(*names)
        yield Scene(group, servers, sentinels)


def _replicated(
    stack: ExitStack, folder: Path, servers: list[RedisServer], before: list[list[str]] | None = None
) -> tuple[Group, Sentinels]:
    for one in servers[1:]:
        with one.client() as client:
            client.replicaof(servers[0].address, servers[0].port)
    wait_until(lambda: replicas_of(servers[0]) == len(servers) - 1, what="the replicas", timeout=40)
    sentinels = stack.enter_context(Sentinels(servers[0], [one.address for one in servers], before or []))
    sentinels.wait_for_quorum(len(servers) - 1)
    places = ", ".join(f'"{place}"' for place in sentinels.places)
    group = Group(folder, f'[redis]\nsentinels = [{places}]\nservice = "mymaster"\n', 2.0)
    stack.callback(group.end)
    return group, sentinels


def leader_cut_off(scene: Scene, leader: Host) -> None:
    """From all others, for long enough that another leads."""
    assert scene.net is not None
    scene.net.cut(leader.name)
    scene.group.wait_for_another(leader)
    scene.pause()
    scene.net.heal(leader.name)


def hosts_cut_off(scene: Scene, leader: Host) -> None:
    """From each other, while both reach Redis: that is nobody's loss, and nothing may change."""
    assert scene.net is not None
    scene.net.keep_apart(*scene.group.hosts)
    time.sleep(1.5 * scene.group.lease)
    assert scene.group.leader() is leader
    scene.net.keep_apart(*scene.group.hosts, apart=False)


def standby_cut_off(scene: Scene, leader: Host) -> None:
    """For longer than a lease: what it did not hear was no silence, and it takes nothing when it is back."""
    assert scene.net is not None
    (other, *_) = scene.group.others(leader)
    scene.net.cut(other.name)
    time.sleep(1.5 * scene.group.lease)
    scene.net.heal(other.name)
    time.sleep(scene.group.lease)
    assert scene.group.leader() is not other


def redis_cut_off(scene: Scene, _leader: Host) -> None:
    """From all hosts, for less than a fence or more."""
    assert scene.net is not None
    scene.net.cut("redis")
    scene.pause(1.5)
    scene.net.heal("redis")


NETWORK = [leader_cut_off, standby_cut_off, hosts_cut_off, redis_cut_off]


@contextmanager
def network(folder: Path, *names: str) -> Iterator[Scene]:
    """Each host and Redis in a network namespace of its own."""
    with _net("redis", *names) as net, RedisServer("--protected-mode", "no", address=net.address["redis"]) as server:
        server.before = net.inside("redis")
        group = Group(folder, f'[redis]\nurl = "{server.start().url}"\n', 3.0)
        group.place = lambda name: (net.inside(name), "")
        try:
            group.start(*names)
            scene = Scene(group, [server])
            scene.net = net
            yield scene
        finally:
            group.end()


def site_cut_off(scene: Scene, _leader: Host) -> None:
    """A site with its Redis, its Sentinel and its host, whoever of them leads, while the two others go on."""
    assert scene.net is not None
    assert scene.sentinels is not None
    site = scene.chance.choice(["a", "b", "c"])
    scene.net.cut(site)
    time.sleep(2 * scene.group.lease)
    scene.pause(2)
    scene.net.heal(site)
    wait_until(lambda: agree(scene.sentinels), what="the Sentinels to agree", timeout=60)
    # An old master is told by the Sentinels that it is none any more.
    wait_until(lambda: replicas_of(scene.server) == len(scene.servers) - 1, what="the replicas", timeout=60)


def agree(sentinels: Sentinels | None) -> bool:
    assert sentinels is not None
    try:
        found = {tuple(one.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")) for one in sentinels.all}
    except redis.RedisError:
        return False
    return len(found) == 1


@contextmanager
def three_sites(folder: Path) -> Iterator[Scene]:
    """Redis and a Sentinel on each of three; a and b are hosts of the group, c is there for the majority."""
    with ExitStack() as stack:
        net = stack.enter_context(_net("a", "b", "c"))
        servers = []
        for name in ("a", "b", "c"):
            options = ("--protected-mode", "no", "--min-replicas-to-write", "1", "--min-replicas-max-lag", "1")
            server = stack.enter_context(RedisServer(*options, address=net.address[name]))
            server.before = net.inside(name)
            servers.append(server.start())
        group, sentinels = _replicated(stack, folder, servers, [server.before for server in servers])
        group.place = lambda name: (net.inside(name), "")
        group.start("a", "b")
        scene = Scene(group, servers, sentinels)
        scene.net = net
        yield scene


def _net(*names: str) -> Net:
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    return Net(*names)
