"""The doctor's findings about a standby group: the leader, this host's part, and what a safe failover lacks."""

from collections.abc import Iterator
from typing import Any

import redis

from restart_guard.config.options import Config, Times
from restart_guard.doctor.finding import Finding, Level
from restart_guard.errors import StoreError
from restart_guard.redis_server import client as redis_client
from restart_guard.standby import memory, status

_LEAST_SENTINELS = 3
_ROOM = 2.5  # beats: one is lost, the next one is answered half a beat late


def findings(config: Config) -> Iterator[Finding]:
    """One finding for each thing that was checked."""
    if config.standby is None:
        return
    group = status.status(config)
    level = Level.FAIL if group.error else Level.WARN if group.rest_s else Level.OK
    yield Finding(level, f"standby {status.line(group)}", group.error or "")
    if not status.takes_part(config):
        advice = "restart-guard install-timer, or restart-guard standby as a service"
        yield Finding(Level.WARN, "standby: no standby process runs on this host at the moment", advice)
    kept = memory.load(config)
    notes = kept.notes if kept is not None else ()
    for note in notes:
        what, _, advice = note.partition(": ")
        yield Finding(Level.WARN, f"standby: {what}", advice)
    if not notes and group.lease_s is not None and group.lease_s != config.standby.lease:
        what = f"standby: the leader's lease is {group.lease_s:g}s, here it is {config.standby.lease:g}s"
        yield Finding(Level.WARN, what, "use the same [standby] on each host")
    yield from _times(config.standby.times)
    fence_s = config.standby.times.fence
    for name in config.standby_targets:
        if config.targets[name].stop_timeout > fence_s / 2:
            what = f"standby: {name} may drain for longer than half of fence; when the lease is lost it is killed"
            yield Finding(Level.WARN, what, f"a stop_timeout of at most {fence_s / 2:g}s, or a longer lease")
    try:
        yield from _failover(config)
    except StoreError:
        return  # reported in another section


def _times(times: Times) -> Iterator[Finding]:
    if 2 * times.fence + times.gap > times.lease * 1.001:
        what = f"standby: fence is {times.fence:g}s: after a failover that loses writes two hosts may lead for a moment"
        yield Finding(Level.WARN, what, f"a fence of at most {(times.lease - times.gap) / 2:g}s, or a longer lease")
    # One beat is lost by one lost answer.
    if times.gap < _ROOM * times.beat:
        what = f"standby: gap is {times.gap:g}s: with one lost beat a standby begins its watch anew"
        yield Finding(Level.WARN, what, f"a gap of {_ROOM * times.beat:g}s, or a shorter beat")
    if times.fence / 2 < _ROOM * times.beat:
        what = f"standby: fence is {times.fence:g}s: with one lost beat the leader stops its targets"
        yield Finding(Level.WARN, what, f"a fence of {2 * _ROOM * times.beat:g}s, or a shorter beat")


def _failover(config: Config) -> Iterator[Finding]:
    """Two hosts with Redis and two Sentinels cannot fail over safely: a majority needs a third."""
    redis_settings = config.redis
    if not redis_settings.sentinels:
        what = "standby: Redis is a single server: while it is down, nobody leads"
        yield Finding(Level.WARN, what, "use replicas and three Sentinels")
        return
    if len(redis_settings.sentinels) < _LEAST_SENTINELS:
        what = (
            f"standby: {len(redis_settings.sentinels)} Sentinels: if one is down, there is no majority for a failover"
        )
        yield Finding(Level.FAIL, what, "add a third Sentinel, on a third host")
    with redis_client.connected(redis_settings) as client:
        replication: Any = client.info("replication")
        least = _config(client, "min-replicas-to-write")
        snapshots, log = _config(client, "save"), client.info("persistence").get("aof_enabled")
    replicas = int(replication.get("connected_slaves") or 0)
    acks = config.standby_acks
    if 1 + acks <= (1 + replicas) / 2:
        what = (
            f"standby: {acks} of {replicas} replicas acknowledge: a part of the servers that is cut off may go on alone"
        )
        yield Finding(Level.WARN, what, f"min_acks = {(1 + replicas) // 2}")
    if not replicas:
        yield Finding(Level.FAIL, "standby: the master has no replica: nothing can replace it", "add replicas")
    if least in ("0", ""):
        what = "standby: min-replicas-to-write is 0: a master that is cut off accepts writes that will be lost"
        yield Finding(Level.WARN, what, "min-replicas-to-write 1 and min-replicas-max-lag 1")
    if snapshots == "" and not log:
        yield Finding(Level.WARN, "standby: the master has no persistence", "appendonly yes")


def _config(client: redis.Redis, name: str) -> str | None:
    """None if this user may not ask."""
    try:
        value: Any = client.config_get(name)
    except redis.ResponseError:
        return None
    return str(value.get(name, ""))
