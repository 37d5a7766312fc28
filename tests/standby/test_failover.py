"""A group of hosts never has two leaders, whatever befalls it, and always one again: each fault once, and in the slow
tests ten times at moments of chance (by hand RG_ROUNDS for more, and RG_HOSTS)."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.faults import Scene
from tests.support.hosts import Host

pytestmark = pytest.mark.server

Fault = Callable[[Scene, Host], None]

ROUNDS = int(os.environ.get("RG_ROUNDS", "10"))
HOSTS = "abcde"[: int(os.environ.get("RG_HOSTS", "3"))]


def named(found: Sequence[Fault]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", found, ids=[one.__name__ for one in found])


@named(faults.ONE_SERVER)
def test_one_server(tmp_path: Path, fault: Fault) -> None:
    """With one Redis, no fault makes two hosts lead, and one leads again."""
    with faults.one_server(tmp_path, "a", "b") as scene:
        scene.suffer(fault)


@named([faults.guard_killed, faults.guard_stopped, faults.all_killed, faults.fence_stopped])
def test_another_takes_over_in_time(tmp_path: Path, fault: Fault) -> None:
    """By the lease, not by some longer timeout; the benchmark `failover` measures how soon."""
    with faults.one_server(tmp_path, "a", "b") as scene:
        group = scene.group
        leader = group.leader()
        group.wait_for_heir(scene.server)
        moment = time.monotonic()
        fault(scene, leader)
        (other,) = group.others(leader)
        assert group.taken_over_after(moment, other) < group.lease * 1.2 + 6.0  # starts on a busy machine
        group.check()


@named(faults.SENTINELS)
@pytest.mark.parametrize("acks", [None, 0], ids=["acknowledged", "unacknowledged"])
def test_under_sentinels(tmp_path: Path, fault: Fault, acks: int | None) -> None:
    """Under Sentinels, with and without acknowledgements, no failover makes two hosts lead."""
    with faults.under_sentinels(tmp_path, "a", "b", acks=acks) as scene:
        scene.suffer(fault)


@named(faults.NETWORK)
def test_network(tmp_path: Path, fault: Fault) -> None:
    """A host, or Redis, that is cut off in its own network namespace makes no second leader."""
    with faults.network(tmp_path, "a", "b") as scene:
        scene.suffer(fault)


def test_three_sites(tmp_path: Path) -> None:
    """Of three sites with a Redis, a Sentinel and a host each, one may be cut off."""
    with faults.three_sites(tmp_path) as scene:
        scene.suffer(faults.site_cut_off)


@pytest.mark.slow
@pytest.mark.timeout(900)
@named(faults.ONE_SERVER)
def test_one_server_again_and_again(tmp_path: Path, fault: Fault) -> None:
    """With three hosts."""
    with faults.one_server(tmp_path, *HOSTS) as scene:
        for _ in range(ROUNDS):
            scene.suffer(fault)


@pytest.mark.slow
@pytest.mark.timeout(900)
@named(faults.SENTINELS)
@pytest.mark.parametrize("acks", [None, 0], ids=["acknowledged", "unacknowledged"])
def test_under_sentinels_again_and_again(tmp_path: Path, fault: Fault, acks: int | None) -> None:
    """Half of the rounds each way."""
    with faults.under_sentinels(tmp_path, *HOSTS, acks=acks) as scene:
        for _ in range((ROUNDS + 1) // 2):
            scene.suffer(fault)


@pytest.mark.slow
@pytest.mark.timeout(900)
@named(faults.NETWORK)
def test_network_again_and_again(tmp_path: Path, fault: Fault) -> None:
    """The same cuts many times at random phases, with three hosts."""
    with faults.network(tmp_path, *HOSTS) as scene:
        for _ in range(ROUNDS):
            scene.suffer(fault)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_sites_again_and_again(tmp_path: Path) -> None:
    """A site is cut off many times at random phases."""
    with faults.three_sites(tmp_path) as scene:
        for _ in range(ROUNDS):
            scene.suffer(faults.site_cut_off)
