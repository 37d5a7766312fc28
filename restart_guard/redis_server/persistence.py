"""How a Redis keeps its data: whether its saves, its append-only file and its replicas are well; and saving it now."""

from collections.abc import Mapping
from typing import Any

import redis

from restart_guard import clock
from restart_guard.config.options import Redis
from restart_guard.counts import counted
from restart_guard.errors import Remedy, StoreError
from restart_guard.redis_server.client import connected

_UNSAVED_S = 86400
_LAG_S = 10


def problems(client: redis.Redis) -> list[str]:
    """The data that a restart or a failover would lose, as clauses; empty if all is well. Raises driver errors.

    Fields: redis.io/docs, INFO. A replica's own copy and link, and a master's replicas, are checked alike.
    """
    persistence, replication = client.info("persistence"), client.info("replication")
    clauses = [f"{field} is {persistence[field]}" for field in _failed_saves(persistence)]
    if not persistence.get("aof_enabled"):
        unsaved = int(persistence.get("rdb_changes_since_last_save", 0))
        age = int(clock.now().timestamp()) - int(persistence.get("rdb_last_save_time", 0))
        has_snapshots = _has_snapshots(client) is not False  # or this user may not see it
        if not has_snapshots:
            clauses.append("it keeps neither snapshots nor an append-only file")
        elif unsaved and age > _UNSAVED_S:
            clauses.append(f"{unsaved} changes are unsaved since {age // 3600} hours")
    if replication.get("role") == "slave" and replication.get("master_link_status") != "up":
        clauses.append(f"the link to its master is {replication.get('master_link_status')}")
    for number in range(int(replication.get("connected_slaves", 0))):
        replica = replication.get(f"slave{number}")
        if not isinstance(replica, dict):
            continue
        state, lag = replica.get("state"), int(replica.get("lag", 0))
        if state != "online" or lag > _LAG_S:
            clauses.append(f"the replica {replica.get('ip')}:{replica.get('port')} is {state}, lag {lag} s")
    return clauses


def save(settings: Redis, seconds: float) -> None:
    """Make the server save itself to disk, and wait for the end. Raises StoreError.

    BGSAVE's own answer only means that the save has begun (redis.io/docs, BGSAVE): the status says how it ended.
    """
    deadline = clock.monotonic() + seconds
    with connected(settings, whole_s=seconds + 2 * settings.timeout) as client:
        before = client.info("persistence")
        while True:
            try:
                client.bgsave()
                break
            except redis.ResponseError as error:
                if "in progress" not in str(error) or clock.monotonic() > deadline:
                    raise
            clock.sleep(0.1)  # a save that began before our data was written does not contain it
        while True:
            now = client.info("persistence")
            if not now.get("rdb_bgsave_in_progress"):
                break
            if clock.monotonic() > deadline:
                raise StoreError(f"the save did not end within {seconds:.0f} s", code="save", remedy=Remedy.PERSON)
            clock.sleep(0.05)
        if now.get("rdb_last_bgsave_status") != "ok" or now.get("rdb_saves") == before.get("rdb_saves", -1):
            raise StoreError("the save to disk failed: see the server's log", code="save", remedy=Remedy.PERSON)


def danger(settings: Redis) -> str | None:
    """Why restarting this server could lose data, as a clause, or None. Raises StoreError when it cannot be asked.

    A master without persistence comes back empty and its replicas empty themselves after it (replication.md of the
    Redis documentation, "Safety of replication when master has persistence turned off").
    """
    with connected(settings) as client:
        try:
            persistence, replication = client.info("persistence"), client.info("replication")
        except redis.exceptions.NoPermissionError:
            return None
        for field in _failed_saves(persistence):
            unsaved = persistence.get("rdb_changes_since_last_save", 0)
            return f"its last save to disk failed ({field}), so {unsaved} changes would be lost"
        replicas = replication.get("connected_slaves", 0)
        is_bare = replication.get("role") == "master" and replicas and not persistence.get("aof_enabled")
        if is_bare and _has_snapshots(client) is False:
            emptied = counted(int(replicas), "replica")
            return f"it is a master without persistence, so its {emptied} would be emptied with it"
    return None


def _failed_saves(persistence: Mapping[str, Any]) -> list[str]:
    """The fields of INFO persistence that report a failed save, or a failed append-only file."""
    fields = ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
    return [field for field in fields if persistence.get(field, "ok") != "ok"]


def _has_snapshots(client: Any) -> bool | None:
    """Whether the server saves snapshots by itself; None if it does not say, or this user may not ask."""
    try:
        save = client.config_get("save").get("save")
    except redis.ResponseError:
        return None
    return None if save is None else save != ""
