"""Temporary keys beside the one that is replaced, and the pipeline that fills them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import hiredis
import redis

from restart_guard.config.options import Redis
from restart_guard.errors import RefreshError, StoreError
from restart_guard.redis_server.client import connected, read_answers
from restart_guard.refreshes import mapping
from restart_guard.refreshes.mapping import Values

_IN_FLIGHT = 4
_JOINED_BYTES = 16 * 2**20

SCRATCH_MS = 3_600_000

_LARGEST_VALUE = 512 * 2**20

Progress = Callable[[int], None]
"""Told how many rows are done."""


class Pipe:
    """Sends commands while the answers to earlier ones are still on their way."""

    def __init__(self, client: redis.Redis) -> None:
        self._connection: Any = client.connection_pool.get_connection()
        self._waiting: list[tuple[int, Callable[[list[Any]], None]]] = []

    def send(self, commands: Sequence[Values], then: Callable[[list[Any]], None]) -> None:
        """``then`` gets the answers, errors among them, later and in order. Driver errors are raised."""
        # The driver's own packing converts each word first; ours are bytes already.
        pack: Any = hiredis.pack_command
        packed = [pack(tuple(command)) for command in commands]
        is_small = sum(map(len, packed)) < _JOINED_BYTES
        self._connection.send_packed_command([b"".join(packed)] if is_small else packed)
        self._waiting.append((len(commands), then))
        if len(self._waiting) > _IN_FLIGHT:
            self._take()

    def finish(self) -> None:
        while self._waiting:
            self._take()

    def _take(self) -> None:
        count, then = self._waiting.pop(0)
        then(read_answers(self._connection, count))


def checked(answer: Any) -> Any:
    """Returns an answer, or raises it if it is an error."""
    if isinstance(answer, Exception):
        raise answer
    return answer


class Scratch(NamedTuple):
    """The names of the temporary keys, in the key's hash slot (redis.io/docs, "Redis cluster specification", hash
    tags)."""

    building: bytes
    leaving: bytes
    token: bytes

    @classmethod
    def beside(cls, key: bytes) -> "Scratch":
        opened = key.find(b"{")
        has_tag = opened >= 0 and key.find(b"}", opened) > opened + 1
        stem = key if has_tag else b"{" + key + b"}"
        return cls(*(stem + b":restart-guard:" + part for part in (b"new", b"old", b"run")))


@contextmanager
def owned(settings: Redis, scratch: Scratch, seconds: float) -> Iterator[tuple[redis.Redis, bytes]]:
    """A client for this time, and our token, by which another host's run would notice ours.

    Afterwards nothing of the run is left, unless Redis is down: then the temporary keys expire, or the next run removes
    them.
    """
    token = os.urandom(8).hex().encode()
    with connected(settings) as client:
        client.unlink(scratch.building, scratch.leaving)
        client.set(scratch.token, token, px=SCRATCH_MS)
    try:
        with connected(settings, whole_s=seconds) as client:
            yield client, token
    finally:
        with suppress(StoreError), connected(settings) as client:
            for expected in (token, None):  # ours may have expired, or was deleted
                with suppress(RefreshError):
                    if_ours(client, scratch, expected, partial(unlink, keys=scratch))
                    break


def if_ours(client: Any, scratch: Scratch, token: bytes | None, queue: Callable[[Any], None]) -> list[Any]:
    """Run a transaction unless another run has begun. ``queue`` may first ask something, then calls ``multi`` and gives
    its commands. Returns their answers, errors among them. Raises RefreshError."""
    key = mapping.shown(scratch.token.removesuffix(b":restart-guard:run"))
    with client.pipeline() as transaction:
        transaction.watch(scratch.token, scratch.building)
        require_ours(transaction.get(scratch.token), token, key)
        queue(transaction)
        try:
            return list(transaction.execute(raise_on_error=False))
        except redis.WatchError as error:
            raise RefreshError("superseded", key=key) from error


def require_ours(found: Any, token: bytes | None, key: object) -> None:
    """Our token must still be there: another's means another run, none that Redis has lost it. Raises RefreshError."""
    if found != token:
        raise RefreshError("lost" if found is None else "superseded", key=key)


def unlink(transaction: Any, keys: Sequence[bytes]) -> None:
    """For ``if_ours``: remove these keys."""
    transaction.multi()
    transaction.unlink(*keys)


def largest_value(client: Any) -> int:
    """The number of bytes that the server accepts as one value: with more it would close the connection."""
    with suppress(redis.RedisError, ValueError, LookupError, AttributeError):  # a proxy closes the connection
        return int(client.config_get("proto-max-bulk-len")["proto-max-bulk-len"])
    return _LARGEST_VALUE


def knows_many(client: Any) -> bool:
    """Whether the server has ZMSCORE and SMISMEMBER, which came with Redis 6.2."""
    try:
        client.execute_command("SMISMEMBER", "restart-guard:none", "member")
    except redis.ResponseError as error:
        return "unknown command" not in str(error)
    return True


_ONE_BY_ONE = """local found = {}
for place = 1, #ARGV do found[place] = redis.call('%s', KEYS[1], ARGV[place]) end
return found"""


def one_by_one(command: Values) -> Values:
    """A script that answers as ZMSCORE or SMISMEMBER would; another command as it is."""
    single = {b"ZMSCORE": b"ZSCORE", b"SMISMEMBER": b"SISMEMBER"}.get(command[0])
    if single is None:
        return command
    return [b"EVAL", _ONE_BY_ONE.encode() % single, b"1", *command[1:]]


def check_sizes(values: Iterable[bytes], most: int) -> None:
    """Raises RefreshError for a value that is too large for Redis."""
    for value in values:
        if len(value) > most:
            raise RefreshError("large", size=len(value), most=most)
