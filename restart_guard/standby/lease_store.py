"""The lease in Redis: one value, changed only by compare-and-set of the whole value; and heartbeats, which are only
news.

The connection is kept from beat to beat: a name server, a lost packet of a new connection or a TLS handshake then costs
no beat. All waits are shorter than a beat.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, NoReturn

import msgspec
import redis

from restart_guard import clock
from restart_guard.config.options import Redis
from restart_guard.durations import Duration
from restart_guard.errors import StoreError
from restart_guard.redis_server.client import KeptClient, connected
from restart_guard.standby.lease import Change, Span

# One call: a transaction (WATCH … EXEC) has two, and the driver calls a lost answer of EXEC a conflict.
_COMPARE_AND_SET = """
local found = redis.call('GET', KEYS[1])
if (found and '1' or '0') ~= ARGV[1] or (found and found ~= ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return 1
"""
_LITTER_LEASES = 10  # the key's TTL, in leases: it only removes keys that nobody uses any more


def _key(group: str, what: str) -> str:
    return f"restart-guard:{{{group}}}:{what}"


def news_channel(channel: str) -> str:
    """The channel beside the plain heartbeats that carries the particulars in JSON."""
    return f"{channel}:json"


class ChangeResult(NamedTuple):
    """Whether a change took place, whether enough replicas have it, and when."""

    took_place: bool
    acknowledged: bool
    span: Span


class LeaseStore:
    """The lease over one connection. ``open_store`` and ``KeptStore`` raise driver errors as StoreError."""

    def __init__(self, client: redis.Redis, group: str, lease_s: float) -> None:
        self._client: Any = client
        self._key = _key(group, "lease")
        self._heir_key = _key(group, "heir")
        self._ttl_ms = round(lease_s * _LITTER_LEASES * 1000)

    def read(self) -> tuple[str | None, Span]:
        sent = clock.boottime()
        value = self._client.get(self._key)
        return None if value is None else value.decode(errors="replace"), Span(sent, clock.boottime())

    def change(self, change: Change, acks: int, wait_s: float) -> ChangeResult:
        """Change the lease if it still has the expected value, and wait until so many replicas have it.

        A conflict is an answer. Without an answer, which is a StoreError, the change may have taken place.
        """
        expected = ("0", "") if change.expected is None else ("1", change.expected)
        sent = clock.boottime()
        done = self._client.execute_command(
            "EVAL", _COMPARE_AND_SET, 1, self._key, *expected, change.new.text, self._ttl_ms
        )
        came = clock.boottime()
        if not done:
            return ChangeResult(took_place=False, acknowledged=False, span=Span(sent, came))
        # On the same connection, which the pool has just got back: WAIT counts the writes of its own connection.
        acknowledged = not acks or self._client.execute_command("WAIT", acks, round(wait_s * 1000)) >= acks
        return ChangeResult(took_place=True, acknowledged=acknowledged, span=Span(sent, came))

    def stand_ready(self, life: str, for_s: float) -> None:
        """Be the heir if the lease is released within this time; of several, the last one is."""
        self._client.set(self._heir_key, life, px=round(for_s * 1000))

    def heir(self) -> str:
        """The process lifetime of the node that stands ready; empty if none does."""
        value = self._client.get(self._heir_key)
        return value.decode(errors="replace") if value else ""

    def tell(self, channel: str, news: dict[str, Any], *, alive: bool = True) -> str:
        """Publish ``alive``, and the particulars as JSON on the second channel. Returns why that is not allowed; the
        lease does not need it."""
        pipeline = self._client.pipeline(transaction=False)
        if alive:
            pipeline.publish(channel, "alive")
        pipeline.publish(news_channel(channel), msgspec.json.encode(news))
        try:
            pipeline.execute()
        except redis.exceptions.NoPermissionError as error:
            return str(error)
        return ""


class KeptStore:
    """The lease over a connection that is kept."""

    def __init__(self, settings: Redis, group: str, *, lease_s: float, timeout_s: float) -> None:
        self._client = KeptClient(msgspec.structs.replace(settings, timeout=Duration(timeout_s)))
        self._group = group
        self._lease_s = lease_s
        self._whole_s = 3 * timeout_s

    @property
    def is_open(self) -> bool:
        return self._client.is_open

    @contextmanager
    def use(self) -> Iterator[LeaseStore]:
        """For one beat. Raises StoreError."""
        with self._client.use(self._whole_s) as client:
            yield LeaseStore(client, self._group, self._lease_s)


@contextmanager
def open_store(settings: Redis, group: str, *, lease_s: float, timeout_s: float) -> Iterator[LeaseStore]:
    """Raises StoreError."""
    brief = msgspec.structs.replace(settings, timeout=Duration(timeout_s))
    with connected(brief) as client:
        yield LeaseStore(client, group, lease_s)


def listen(settings: Redis, channel: str, *, silence_s: float, hear: Callable[[dict[str, Any]], None]) -> NoReturn:
    """Pass on the news as they come. A new connection is made when one fails or is silent for too long, and so after a
    failover. Messages in between are missed, and nothing depends on them."""
    brief = msgspec.structs.replace(settings, timeout=Duration(silence_s))
    while True:
        with (
            suppress(StoreError),
            connected(brief, whole_s=math.inf) as client,
            client.pubsub(ignore_subscribe_messages=True) as pubsub,
        ):
            subscription: Any = pubsub
            subscription.subscribe(news_channel(channel))
            heard_at = clock.monotonic()
            while clock.monotonic() - heard_at < silence_s:
                message = subscription.get_message(timeout=silence_s)
                if message is not None:
                    heard_at = clock.monotonic()
                    with suppress(msgspec.DecodeError):
                        hear(msgspec.json.decode(message["data"], type=dict[str, Any]))
        clock.sleep(silence_s / 10)
