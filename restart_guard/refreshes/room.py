"""Whether a Redis has room for what a refresh writes. One that evicts would remove other data to make some."""

from typing import Any

import redis

from restart_guard.errors import RefreshError

_BYTES_A_VALUE = 100
"""What Redis needs for a member beside its text, at most (an entry, two strings, a skip list's node)."""

_BYTES_A_PLACE = 16
"""A hash table that has become too small is doubled at once: so much for each member that there is already."""


class Room:
    """Asked before each batch of writes; on a server that evicts nothing it costs nothing.

    ``is_known`` is False if the server does not answer INFO (an ACL, a proxy).
    """

    def __init__(self, client: Any, key: str | None, *, need: bytes | None = None) -> None:
        """``need``: an existing key, a copy of which will be made. Raises RefreshError if there is no room."""
        self._client = client
        self._key = key
        self._members = 0
        memory = self._ask("memory")
        self.is_known = memory is not None
        self._most = 0
        if memory is not None and memory.get("maxmemory_policy") != "noeviction":
            self._most = int(memory.get("maxmemory", 0))
        self._evicted = self._count_evicted() if self._most else 0
        if self._most:
            self._require(memory, self._size_of(need) if need is not None else 0)

    @property
    def is_limited(self) -> bool:
        """Whether ``take`` must be asked with no earlier write on its way."""
        return bool(self._most)

    def take(self, members: int, size: int) -> None:
        """Before so many members with so many bytes are written. Raises RefreshError if they have no room, or if the
        server has begun to evict."""
        if not self._most:
            return
        self._members += members
        # A text is held by Redis once, and once more on its way.
        self._require(self._ask("memory"), 2 * size + _BYTES_A_VALUE * members + _BYTES_A_PLACE * self._members)
        if self._count_evicted() > self._evicted:
            raise RefreshError("memory", key=self._key, need=size)

    def _require(self, memory: Any, need: int) -> None:
        if memory is not None and int(memory.get("used_memory", 0)) + need > self._most:
            raise RefreshError("memory", key=self._key, need=need)

    def _count_evicted(self) -> int:
        return int((self._ask("stats") or {}).get("evicted_keys", 0))

    def _size_of(self, key: bytes) -> int:
        try:
            return int(self._client.memory_usage(key) or 0)
        except redis.ResponseError:
            return 0

    def _ask(self, section: str) -> Any:
        try:
            return self._client.info(section)
        except redis.RedisError:
            return None
