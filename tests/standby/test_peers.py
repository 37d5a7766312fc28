"""Hosts of a group whose configs do not fit together: told on each host that can see it, and by ``doctor``."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from restart_guard.config.options import Times
from restart_guard.standby.lease import Mark
from restart_guard.standby.peers import Peers
from tests.support.hosts import Group, Host
from tests.support.servers import RedisServer, wait_until

pytestmark = pytest.mark.server


@pytest.fixture
def group(tmp_path: Path, redis_server: RedisServer) -> Iterator[Group]:
    one = Group(tmp_path, f'[redis]\nurl = "{redis_server.url}"\n')
    yield one
    one.end()


def with_other(group: Group, before: str, after: str) -> tuple[Host, Host]:
    """Two hosts, the second of which has something else in its config."""
    one, other = group.add("a"), group.add("b")
    text = other.guard.config.read_text()
    assert before in text
    other.guard.config.write_text(text.replace(before, after))
    one.join()
    group.leader()
    other.join()
    return one, other


def says(host: Host, text: str) -> None:
    said = [""]

    def is_said() -> bool:
        said[0] += host.said()
        return text in said[0]

    wait_until(is_said, what=f"{host.name} to say {text!r}")
    wait_until(lambda: f"warn  standby: {text}" in host.guard("doctor").out, what="doctor to say it too")


def test_another_database_makes_two_groups(group: Group) -> None:
    """Both lead; the channel, which all databases share, tells it."""
    one, other = with_other(group, "/0", "/1")
    says(one, "b leads g in database 1 of this Redis, and this host looks for the lease in database 0")
    says(other, "a leads g in database 0 of this Redis, and this host looks for the lease in database 1")


def test_equal_names(group: Group) -> None:
    """They are two to the protocol, and one to a reader of its alerts. The one that watches sees it."""
    _, other = with_other(group, 'node = "b"', 'node = "a"')
    says(other, "Another process takes part in g under the name of this host, a")


def test_other_times(group: Group) -> None:
    """A standby reads them from the leader's mark."""
    _, other = with_other(group, 'lease = "1.0s"', 'lease = "1.0s"\nfence = "300ms"')
    says(other, "a has lease 1s, beat 0.06s, fence 0.38s, gap 0.24s, this host has lease 1s, beat 0.06s, fence 0.3s")


def test_channels_that_a_user_may_not_use(group: Group, redis_server: RedisServer) -> None:
    """The lease needs none, and Redis is there; with the rights on the channels nothing is told."""
    with redis_server.client() as client:
        for name, channels in (("deaf", ["resetchannels"]), ("well", ["resetchannels", "&heartbeat*"])):
            client.execute_command("ACL", "SETUSER", name, "on", ">pw", "~*", "+@all", *channels)
    try:
        for name, is_told in (("deaf", True), ("well", False)):
            host = group.add(name)
            text = host.guard.config.read_text().replace("redis://", f"redis://{name}:pw@")
            host.guard.config.write_text(text)
            host.join()
            wait_until(partial(has_run, group, name), what="it to lead")
            said = host.said()
            assert ("The heartbeats on the channels heartbeat and heartbeat:json are refused" in said) == is_told, said
            assert "cannot be" not in said
            host.end()
            host.guard("kill", "web")
    finally:
        with redis_server.client() as client:
            client.execute_command("ACL", "DELUSER", "deaf", "well")


def has_run(group: Group, name: str) -> bool:
    return any(stamp.host == name for stamp in group.lines())


def test_an_earlier_process_of_this_host_is_no_other() -> None:
    """Its mark stands still, and so do heartbeats of its own lives; those of older versions tell no life."""
    times = Times(lease=10.0, beat=1.0, fence=4.0, gap=2.0)
    peers = Peers("g", "a", times, 0)
    peers.is_here("now")
    for mark in (Mark("a", "before", 7), Mark("a", "before", 7), Mark("a", "now", 8), Mark("a", "now", 9)):
        peers.read(mark)
    peers.read(Mark("b", "x", 1).with_times(times))
    peers.read(Mark("c", "an older version", 1, lease_ms=10000))
    for news in ({"life": "now"}, {"life": None}, {}, {"life": "x", "node": "b", "database": 0}):
        peers.heard({"group": "g", "node": "a", **news})
    peers.heard({"group": "other", "node": "a", "life": "y", "database": 3})
    assert peers.news() == []
    peers.read(Mark("a", "other", 1))
    peers.read(Mark("a", "other", 2))
    assert len(peers.news()) == 1
    assert peers.news() == []
    assert len(peers.current()) == 1
