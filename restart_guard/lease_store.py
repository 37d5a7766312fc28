"""The lease in Redis: one value, changed only by compare-and-set of the whole of it; and heartbeats, which are news.

Every beat opens its own connection, so that after a failover the Sentinels are asked again: a client that keeps one
goes on writing to a demoted master for seconds. All waits are shorter than a beat.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import redis

from restart_guard import clock
from restart_guard.lease import Change, Span
from restart_guard.redis_client import connected
from restart_guard.settings import Redis
from restart_guard.values import Duration

_LITTER_LEASES = 10  # the key's TTL, in leases: it only clears away what nobody uses any more
_NEWS = ":json"


def key_of(group: str) -> str:
    return f"restart-guard:{{{group}}}:lease"


class LeaseStore:
    """One connection, for one beat. Driver errors leave ``open_store`` as StoreError."""

    def __init__(self, client: redis.Redis, group: str, lease_s: float) -> None:
        self._client: Any = client
        self._key = key_of(group)
        self._ttl_ms = round(lease_s * _LITTER_LEASES * 1000)

    def read(self) -> tuple[str | None, Span]:
        sent = clock.boottime()
        value = self._client.get(self._key)
        return None if value is None else value.decode(errors="replace"), Span(sent, clock.boottime())

    def change(self, change: Change, acks: int, wait_s: float) -> tuple[bool, bool, Span]:
        """Whether it took place, whether so many replicas have it, and when."""
        sent = clock.boottime()
        with self._client.pipeline() as transaction:
            transaction.watch(self._key)
            found = transaction.get(self._key)
            if (None if found is None else found.decode(errors="replace")) != change.expected:
                return False, False, Span(sent, clock.boottime())
            transaction.multi()
            transaction.set(self._key, change.new.text, px=self._ttl_ms)
            try:
                transaction.execute()
            except redis.WatchError:
                return False, False, Span(sent, clock.boottime())
            came = clock.boottime()
            # On the same connection, which the pool has just got back: WAIT is about the writes of its own.
            acknowledged = not acks or self._client.execute_command("WAIT", acks, round(wait_s * 1000)) >= acks
        return True, acknowledged, Span(sent, came)

    def tell(self, channel: str, news: dict[str, Any]) -> None:
        """``alive`` for whoever listens, and the same with its particulars on a channel beside."""
        self._client.publish(channel, "alive")
        self._client.publish(channel + _NEWS, msgspec.json.encode(news))


@contextmanager
def open_store(settings: Redis, group: str, *, lease_s: float, timeout_s: float) -> Iterator[LeaseStore]:
    """Raises StoreError."""
    brief = msgspec.structs.replace(settings, timeout=Duration(timeout_s))
    with connected(brief) as client:
        yield LeaseStore(client, group, lease_s)
