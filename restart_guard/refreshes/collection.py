"""Replaces a Redis collection by the rows of a query: build it, compare it with the old one, swap it in at once.

A collection is built under a temporary key of the same hash slot and renamed in a transaction, so that a reader sees
the old or the new one as a whole. The old one is renamed away and unlinked: RENAME over a large key would free it while
all others wait. The next run removes what a killed run left, since it knows its name. Two hosts that refresh the same
key notice it by a token, and the later one goes on.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import redis

from restart_guard.config.options import Refresh
from restart_guard.errors import RefreshError
from restart_guard.refreshes import mapping
from restart_guard.refreshes.mapping import Drift, Example, Values
from restart_guard.refreshes.room import Room
from restart_guard.refreshes.scratch import (
    SCRATCH_MS,
    Pipe,
    Progress,
    Scratch,
    check_sizes,
    checked,
    if_ours,
    knows_many,
    largest_value,
    one_by_one,
    require_ours,
    unlink,
)

_PAGE = 1000
_PAGES = 20


class CollectionSwap:
    """The new collection, while it is built beside the old one."""

    def __init__(self, client: redis.Redis, refresh: Refresh, token: bytes | None) -> None:
        """Without a token nothing is written: the old one is only compared."""
        self.key = mapping.fixed_key(refresh.key)
        self.scratch = Scratch.beside(self.key)
        self.kind = mapping.COLLECTIONS[refresh.type]
        self._client: Any = client
        self._refresh = refresh
        self._token = token
        self._drift = Drift()
        self._rows = 0
        kind_found = client.type(self.key)
        name = kind_found.decode() if isinstance(kind_found, bytes) else str(kind_found)
        self.other_type = name if name not in ("none", refresh.type) else None
        self._most = largest_value(client)
        self.room = Room(client, mapping.shown(self.key), need=self.key) if token is not None else None
        self._asks_each = not knows_many(client)
        self._before = 0 if name == "none" else 1 if self.other_type else int(self._size(self.key))

    def _size(self, key: bytes) -> Any:
        return self._client.execute_command(self.kind.size, key)

    def add_all(self, batches: Iterable[list[bytes | None]], columns: Sequence[str], progress: Progress) -> None:
        """Write and compare every row. Raises RefreshError, StoreError, DeliveryError."""
        order = mapping.in_roles(self.kind.roles, columns)
        pipe = Pipe(self._client)
        for batch in batches:
            rows = mapping.reordered(_without_null(batch, columns), order)
            size = sum(map(len, rows))
            if size > self._most:
                check_sizes(rows, self._most)
            if self.room is not None and self.room.is_limited:
                pipe.finish()
                self.room.take(len(rows) // len(self.kind.roles), size)
            self._send(pipe, rows)
            progress(self._rows)
        pipe.finish()

    def _send(self, pipe: Pipe, rows: Values) -> None:
        count = len(rows) // len(self.kind.roles)
        writes = []
        if self._token is not None:
            building = self.scratch.building
            # In one transaction, so that a kill leaves no key without an expiry.
            writes = [[b"MULTI"], self.kind.fill(building, rows)]
            writes += [[b"PEXPIRE", key, b"%d" % SCRATCH_MS] for key in (building, self.scratch.token)]
            writes += [[b"EXEC"], [b"GET", self.scratch.token]]
        asks = [] if self.other_type else [self._ask(self.key, rows, self._rows)]
        begun = self._rows
        self._rows += count

        def then(answers: list[Any]) -> None:
            if writes:
                self._judge_write(answers[: len(writes)], rows, count, begun)
            drift = self.kind.compare(rows, checked(answers[-1])) if asks else Drift(added=count)
            self._drift = self._drift.plus(drift)

        pipe.send([*writes, *asks], then)

    def _ask(self, key: bytes, rows: Values, before: int) -> Values:
        question = self.kind.ask(key, rows, before)
        return one_by_one(question) if self._asks_each else question

    def _judge_write(self, answers: list[Any], rows: Values, count: int, begun: int) -> None:
        *queued, executed, token = answers
        for answer in queued:
            checked(answer)
        filled = executed if isinstance(executed, Exception) else executed[0]
        if isinstance(filled, redis.ResponseError) and "valid float" in str(filled):
            raise RefreshError("number", first=begun + 1, last=begun + count)
        require_ours(checked(token), self._token, mapping.shown(self.key))
        if self.kind.is_unique and checked(filled) != count:
            members = rows[:: len(self.kind.roles)]
            twice = next((name for name in members if members.count(name) > 1), None) if count <= _PAGE else None
            raise RefreshError("duplicate", name=mapping.shown(twice) or f"rows {begun + 1}-{begun + count}")
        checked(filled)

    @property
    def drift(self) -> Drift:
        """The differences, after all rows: what is in the old one and not in the new one counts as removed."""
        kept = self._drift.changed + self._drift.unchanged
        removed = max(0, self._before - kept) if not self.other_type else 1
        examples = self._drift.examples
        if removed and self._token is not None and len(examples) < mapping.EXAMPLES and not self.other_type:
            examples += tuple(self._removed(mapping.EXAMPLES - len(examples)))
        return self._drift._replace(removed=removed, examples=examples)

    def _removed(self, most: int) -> Iterator[Example]:
        """Some members that the new one does not have, from the first pages of the old one."""
        scan = {"hash": b"HSCAN", "zset": b"ZSCAN", "set": b"SSCAN"}.get(self._refresh.type)
        cursor = b"0"
        pipe = Pipe(self._client)
        for _ in range(_PAGES if scan else 0):
            # Not by the client's own method, which would build a dictionary.
            answer = list[Any]()
            pipe.send([[scan or b"", self.key, cursor, b"COUNT", b"%d" % _PAGE]], answer.extend)
            pipe.finish()
            cursor, page = checked(answer[0])
            width = len(self.kind.roles)
            members = page[::width]
            if members:
                answers = list[Any]()
                pipe.send([self._ask(self.scratch.building, page, 0)], answers.extend)
                pipe.finish()
                for place, known in enumerate(checked(answers[0])):
                    if known in (None, 0) and most > 0:
                        most -= 1
                        was = mapping.shown(page[place * width + width - 1])
                        yield Example(mapping.shown(members[place]) or "", was, None)
            if cursor == b"0" or most <= 0:
                return

    def swap(self) -> None:
        """Put the new one in the old one's place, with its TTL. Raises RefreshError if it is not complete."""

        def queue(transaction: Any) -> None:
            if transaction.execute_command(self.kind.size, self.scratch.building) != self._rows:
                raise RefreshError("lost")
            transaction.multi()
            transaction.pexpire(self.scratch.building, round(self._refresh.ttl * 1000))
            transaction.rename(self.key, self.scratch.leaving)  # fails if there is none, which does no harm
            transaction.rename(self.scratch.building, self.key)
            transaction.unlink(self.scratch.leaving, self.scratch.token)

        answers = if_ours(self._client, self.scratch, self._token, queue)
        for answer in (answers[0], *answers[2:]):
            checked(answer)

    def clear(self) -> None:
        for answer in if_ours(self._client, self.scratch, self._token, partial(unlink, keys=(self.key,))):
            checked(answer)


def _without_null(batch: list[bytes | None], columns: Sequence[str]) -> Values:
    if None in batch:
        raise RefreshError("null", column=columns[batch.index(None) % len(columns)])
    return batch  # type: ignore[return-value]
