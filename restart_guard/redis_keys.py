"""One value for each key of a template: all compared first, then each replaced at once with its TTL.

With an index, a set of the names of the refresh's own keys, those that the query no longer gives are removed. It holds
a mark besides: a set that lacks it is somebody else's, and what it names is left alone. It holds a name before that key
is written and until it is removed, so that a killed run leaves no key that no index knows.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis

from restart_guard import shape
from restart_guard.errors import RefreshError
from restart_guard.redis_copy import Pipe, Progress, Scratch, check_sizes, checked, largest_value
from restart_guard.settings import Refresh
from restart_guard.shape import Drift, Example, Values

_SCRATCH_MS = 3_600_000
_PAGE = 1000
_MOST_BYTES = 2**20

Group = tuple[bytes, Values]


class Keys:
    """The keys of one refresh; without a token nothing is written."""

    def __init__(self, client: redis.Redis, name: str, refresh: Refresh, token: bytes | None) -> None:
        self._client: Any = client
        self._refresh = refresh
        self._token = token
        self._index = refresh.index.encode("utf-8", "surrogateescape") if refresh.index else None
        self._mark = f"restart-guard:refresh:{name}".encode()
        self.scratch = scratch_of(name, refresh)
        self._most = largest_value(client)
        if self._index is not None and not self._is_ours(self._index):
            raise RefreshError("index", key=refresh.index)

    def _is_ours(self, index: bytes) -> bool:
        kind = self._client.type(index)
        return kind == b"none" or (kind == b"set" and bool(self._client.sismember(index, self._mark)))

    def compare(self, batches: Iterable[Sequence[Group]], progress: Progress) -> Drift:
        """What writing would change; the names that the query gives are kept beside, which tells the same one twice."""
        pipe = Pipe(self._client)
        drift = Drift()
        count = 0

        def judged(groups: Sequence[Group], writes: int) -> None:
            nonlocal drift

            def then(answers: list[Any]) -> None:
                nonlocal drift
                if writes:
                    self._judge_names(answers[:writes], groups)
                drift = drift.plus(shape.compare(self._refresh.type, groups, answers[writes:]))

            asks = shape.ask(self._refresh.type, [key for key, _ in groups])
            pipe.send([*self._naming([key for key, _ in groups]), *asks], then)

        for groups in _bounded(batches, self._most):
            judged(groups, 3 if self._token is not None else 0)
            count += len(groups)
            progress(count)
        pipe.finish()
        removed, examples = self._count_stale() if self._token is not None else (0, ())
        return drift.plus(Drift(removed=removed, examples=examples))

    def _naming(self, keys: Sequence[bytes]) -> list[Values]:
        if self._token is None:
            return []
        building = self.scratch.building
        return [
            [b"SADD", building, *keys],
            [b"PEXPIRE", building, b"%d" % _SCRATCH_MS],
            [b"GET", self.scratch.token],
        ]

    def _judge_names(self, answers: list[Any], groups: Sequence[Group]) -> None:
        if checked(answers[2]) != self._token:
            raise RefreshError("superseded", key=self._refresh.key)
        if checked(answers[0]) != len(groups):
            keys = [key for key, _ in groups]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            raise RefreshError("duplicate", name=shape.shown(twice) or f"a key among {shape.shown(keys[0])} …")

    def write(self, batches: Iterable[Sequence[Group]], progress: Progress) -> None:
        """Replace every value, then remove what the query no longer gives."""
        ttl_ms = round(self._refresh.ttl * 1000)
        pipe = Pipe(self._client)
        count = 0
        for groups in _bounded(batches, self._most):
            commands: list[Values] = []
            if self._index is not None:
                commands.append([b"SADD", self._index, self._mark, *(key for key, _ in groups)])
            for key, values in groups:
                commands += shape.write(self._refresh.type, key, values, ttl_ms)
            commands.append([b"GET", self.scratch.token])
            pipe.send(commands, self._judge_writes)
            count += len(groups)
            progress(count)
        pipe.finish()
        if self._index is not None:
            self._remove_stale()

    def _judge_writes(self, answers: list[Any]) -> None:
        if checked(answers[-1]) != self._token:
            raise RefreshError("superseded", key=self._refresh.key)
        for answer in answers:
            if isinstance(answer, redis.ResponseError) and "valid float" in str(answer):
                raise RefreshError("number", first="", last="")
            checked(answer)
            if isinstance(answer, list):  # of EXEC
                for inner in answer:
                    checked(inner)

    def _stale_pages(self) -> Iterator[list[bytes]]:
        """Keys of the index that the query did not give, a page at a time: SDIFF would hold up everybody else."""
        cursor = -1
        while self._index is not None and cursor != 0:
            cursor, page = self._client.sscan(self._index, cursor=max(cursor, 0), count=_PAGE)
            names = [name for name in page if name != self._mark]
            known = self._client.smismember(self.scratch.building, names) if names else []
            yield [name for name, is_given in zip(names, known, strict=True) if not is_given]

    def _count_stale(self) -> tuple[int, tuple[Example, ...]]:
        count = 0
        examples: list[Example] = []
        for page in self._stale_pages():
            count += len(page)
            examples += [Example(shape.shown(key) or "", "", None) for key in page[: shape.EXAMPLES - len(examples)]]
        return count, tuple(examples)

    def _remove_stale(self) -> None:
        for page in self._stale_pages():
            if page:
                self._client.unlink(*page)
                self._client.srem(self._index, *page)

    def clear(self) -> None:
        """The query gives nothing, and may."""
        if self._index is not None:
            self._remove_stale()
        elif not shape.template_fields(self._refresh.key):
            self._client.unlink(shape.fixed_key(self._refresh.key))


def scratch_of(name: str, refresh: Refresh) -> Scratch:
    """A fixed key's own; those of a template share that of the refresh."""
    if shape.template_fields(refresh.key):
        return Scratch.beside(f"restart-guard:refresh:{name}".encode("utf-8", "surrogateescape"))
    return Scratch.beside(shape.fixed_key(refresh.key))


def _bounded(batches: Iterable[Sequence[Group]], most: int) -> Iterator[list[Group]]:
    """Groups in lists of bounded bytes; an empty one is left out. Raises RefreshError for a value of more than most."""
    for batch in batches:
        found: list[Group] = []
        size = 0
        for key, values in batch:
            found.append((key, values))
            length = sum(map(len, values))
            size += length
            if length > most:
                check_sizes(values, most)
            if size > _MOST_BYTES:
                yield found
                found, size = [], 0
        if found:
            yield found
