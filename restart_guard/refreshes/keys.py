"""Replaces the values of a key template's keys: all are compared first, then each is replaced at once with its TTL.

With an index, a set of the names of the refresh's own keys, the keys that the query no longer gives are removed. The
index also holds a mark: a set without it belongs to somebody else, and the keys it names are left alone. The index
holds a name before that key is written and until it is removed, so that a killed run leaves no key that no index knows.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import redis

from restart_guard.config.options import Refresh
from restart_guard.errors import RefreshError
from restart_guard.refreshes import mapping, per_key
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
_MOST_BYTES = 2**20

Group = tuple[bytes, Values]


class KeyedRefresh:
    """The keys of one refresh; without a token nothing is written. ``force`` also replaces keys of another type."""

    def __init__(self, client: redis.Redis, name: str, refresh: Refresh, token: bytes | None, *, force: bool) -> None:
        self._client: Any = client
        self._refresh = refresh
        self._token = token
        self._force = force
        self._index = refresh.index.encode("utf-8", "surrogateescape") if refresh.index else None
        self._mark = f"restart-guard:refresh:{name}".encode()
        self.scratch = scratch_of(name, refresh)
        self._most = largest_value(client)
        self._count = 0
        self._indexed = 0
        self.refusal: RefreshError | None = None
        if self._index is not None and not self._is_ours(self._index):
            raise RefreshError("index", key=refresh.index)
        self._asks_each = not knows_many(client)
        self.room = Room(client, refresh.key, need=self._index) if token is not None else None

    def _is_ours(self, index: bytes) -> bool:
        kind = self._client.type(index)
        return kind == b"none" or (kind == b"set" and bool(self._client.sismember(index, self._mark)))

    def compare(self, batches: Iterable[Sequence[Group]], progress: Progress) -> Drift:
        """The differences that writing would make. The names that the query gives are kept in a set, which also shows
        duplicates."""
        pipe = Pipe(self._client)
        drift = Drift()

        def judge(groups: Sequence[Group], first: int) -> None:
            def then(answers: list[Any]) -> None:
                nonlocal drift
                self._judge_names(answers[:first], groups)
                self._judge_types(answers[first:], groups)
                drift = drift.plus(per_key.compare(self._refresh.type, groups, answers[first:]))

            keys = [key for key, _ in groups]
            pipe.send([*self._naming(keys), *per_key.ask(self._refresh.type, keys)], then)

        for groups in _bounded(batches, self._most):
            self._count += len(groups)
            self._take_room(pipe, groups, sum(len(key) for key, _ in groups))
            judge(groups, len(self._naming([b""])))
            progress(self._count)
        pipe.finish()
        removed, examples = self._count_stale()
        return drift.plus(Drift(removed=removed, examples=examples))

    def _take_room(self, pipe: Pipe, groups: Sequence[Group], size: int) -> None:
        if self.room is not None and self.room.is_limited:
            pipe.finish()
            self.room.take(len(groups), size)

    def _are_members(self, client: Any, key: bytes | None, names: Sequence[bytes]) -> list[Any]:
        command: Values = [b"SMISMEMBER", key or b"", *names]
        return list(client.execute_command(*(one_by_one(command) if self._asks_each else command)))

    def _naming(self, keys: Sequence[bytes]) -> list[Values]:
        if self._token is None:
            if self._index is None:
                return []
            question: Values = [b"SMISMEMBER", self._index, *keys]
            return [one_by_one(question) if self._asks_each else question]
        if self._index in keys:
            raise RefreshError("is_index", key=self._refresh.index)
        lifetime = b"%d" % SCRATCH_MS
        return [
            *([b"MULTI"], [b"SADD", self.scratch.building, *keys]),
            *([b"PEXPIRE", key, lifetime] for key in (self.scratch.building, self.scratch.token)),
            *([b"EXEC"], [b"GET", self.scratch.token]),
        ]

    def _judge_names(self, answers: list[Any], groups: Sequence[Group]) -> None:
        if self._token is None:
            self._indexed += sum(checked(answers[0])) if answers else 0
            return
        require_ours(checked(answers[-1]), self._token, self._refresh.key)
        for queued in answers[:-2]:
            checked(queued)
        if checked(answers[-2])[0] != len(groups):
            keys = [key for key, _ in groups]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            raise RefreshError("duplicate", name=mapping.shown(twice) or f"a key among {mapping.shown(keys[0])} …")

    def _judge_types(self, answers: list[Any], groups: Sequence[Group]) -> None:
        """A key of another type belongs to somebody else. Asking for its value is an error; as a string it looks
        missing."""
        is_single = self._refresh.type in ("string", "json")
        values = checked(answers[0]) if is_single else answers
        odd = [(key, value) for (key, _), value in zip(groups, values, strict=True) if not isinstance(value, bytes)]
        foreign = [key for key, value in odd if _is_foreign(value)]
        nothing = [key for key, value in odd if value is None] if is_single else []
        if nothing and self._client.exists(*nothing):
            foreign = [key for key in nothing if self._client.type(key) != b"none"]
        if foreign and not self._force:
            found_type = self._client.type(foreign[0]).decode()
            wanted = "string" if self._refresh.type == "json" else self._refresh.type
            self.refusal = RefreshError("other_type", key=mapping.shown(foreign[0]), found=found_type, wanted=wanted)
            if self._token is not None:
                raise self.refusal

    def write(self, batches: Iterable[Sequence[Group]], progress: Progress) -> None:
        """Replace every value, then remove the keys that the query no longer gives."""
        ttl_ms = round(self._refresh.ttl * 1000)
        pipe = Pipe(self._client)
        done = 0
        for groups in _bounded(batches, self._most):
            keys = [key for key, _ in groups]
            # Only keys that were compared are written: a query may return other rows the second time.
            if not all(self._are_members(self._client, self.scratch.building, keys)):
                raise RefreshError("moved")
            self._take_room(pipe, groups, sum(len(value) for _, values in groups for value in values))
            commands: list[Values] = []
            if self._index is not None:
                commands.append([b"SADD", self._index, self._mark, *keys])
            for key, values in groups:
                commands += per_key.write(self._refresh.type, key, values, ttl_ms)
            commands += [[b"PEXPIRE", self.scratch.building, b"%d" % SCRATCH_MS]]
            commands += [[b"PEXPIRE", self.scratch.token, b"%d" % SCRATCH_MS], [b"GET", self.scratch.token]]
            pipe.send(commands, self._judge_writes)
            done += len(groups)
            progress(done)
        pipe.finish()
        if done != self._count:
            raise RefreshError("moved")
        if self._index is not None:
            self._remove_stale()

    def _judge_writes(self, answers: list[Any]) -> None:
        require_ours(checked(answers[-1]), self._token, self._refresh.key)
        for answer in (one for one in answers if not isinstance(one, (bytes, int))):
            checked(answer)
            for inner in answer if isinstance(answer, list) else ():  # of EXEC
                checked(inner)

    def _pages(self) -> Iterator[list[bytes]]:
        """The names in the index, a page at a time: SDIFF would block everybody else."""
        cursor = -1
        while self._index is not None and cursor != 0:
            cursor, page = self._client.sscan(self._index, cursor=max(cursor, 0), count=_PAGE)
            names = [name for name in page if name != self._mark]
            if names:
                yield names

    def _count_stale(self) -> tuple[int, tuple[Example, ...]]:
        if self._index is None:
            return 0, ()
        if self._token is None:
            return max(0, self._client.scard(self._index) - 1 - self._indexed), ()
        count = 0
        examples: list[Example] = []
        for names in self._pages():
            stale = self._not_given(self._client, names)
            count += len(stale)
            examples += [
                Example(mapping.shown(key) or "", "", None) for key in stale[: mapping.EXAMPLES - len(examples)]
            ]
        return count, tuple(examples)

    def _not_given(self, client: Any, names: list[bytes]) -> list[bytes]:
        """The keys that the query did not give. The set of given names must be complete: else all would seem gone."""
        known = self._are_members(client, self.scratch.building, names)
        if client.scard(self.scratch.building) != self._count:
            raise RefreshError("lost")
        return [name for name, is_given in zip(names, known, strict=True) if not is_given]

    def _remove_stale(self) -> None:
        for names in self._pages():

            def queue(transaction: Any, names: list[bytes] = names) -> None:
                stale = self._not_given(transaction, names)
                transaction.multi()
                if stale:
                    transaction.unlink(*stale)
                    transaction.srem(self._index, *stale)

            for answer in if_ours(self._client, self.scratch, self._token, queue):
                checked(answer)

    def clear(self) -> None:
        """Remove the data: the query gives no row, and the config allows that."""
        if self._index is not None:
            self._remove_stale()
        elif not mapping.template_fields(self._refresh.key):
            key = mapping.fixed_key(self._refresh.key)
            kind = self._client.type(key)
            if kind not in (b"none", b"string") and not self._force:
                raise RefreshError("other_type", key=mapping.shown(key), found=kind.decode(), wanted="string")
            for answer in if_ours(self._client, self.scratch, self._token, partial(unlink, keys=(key,))):
                checked(answer)


def _is_foreign(value: Any) -> bool:
    return isinstance(value, redis.ResponseError) and "WRONGTYPE" in f"{value.status_code} {value}"


def scratch_of(name: str, refresh: Refresh) -> Scratch:
    """The temporary keys of a refresh: a fixed key has its own, all keys of a template share those of the refresh."""
    if mapping.template_fields(refresh.key):
        return Scratch.beside(f"restart-guard:refresh:{name}".encode("utf-8", "surrogateescape"))
    return Scratch.beside(mapping.fixed_key(refresh.key))


def _bounded(batches: Iterable[Sequence[Group]], most: int) -> Iterator[list[Group]]:
    """Groups in lists of limited size in bytes, without empty ones. Raises RefreshError for a value larger than
    ``most``."""
    for batch in batches:
        groups: list[Group] = []
        size = 0
        for key, values in batch:
            groups.append((key, values))
            length = sum(map(len, values))
            size += length
            if length > most:
                check_sizes(values, most)
            if size > _MOST_BYTES:
                yield groups
                groups, size = [], 0
        if groups:
            yield groups
