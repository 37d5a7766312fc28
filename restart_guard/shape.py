"""How the rows of a refresh become Redis data: key templates, which column is what, and what differs. Pure.

Values are bytes throughout, as MySQL sent them; a row's values stand one after the other in a batch.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from restart_guard.errors import RefreshError

EXAMPLES = 5
_JSON_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")

Values = list[bytes]


class Example(NamedTuple):
    """A difference; ``was`` is None for what is new, ``now`` for what is gone."""

    name: str
    was: str | None
    now: str | None


class Drift(NamedTuple):
    """What Redis and MySQL differ in, by members of a collection, or by keys."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    examples: tuple[Example, ...] = ()

    def plus(self, other: "Drift") -> "Drift":
        return Drift(
            self.added + other.added,
            self.changed + other.changed,
            self.removed + other.removed,
            self.unchanged + other.unchanged,
            (self.examples + other.examples)[:EXAMPLES] if other.examples else self.examples,
        )

    @property
    def share(self) -> float:
        """How much differs, of the larger of what was and what is, at most all; 0 where nothing was: there is nothing
        to ruin."""
        before = self.changed + self.unchanged + self.removed
        after = self.changed + self.unchanged + self.added
        return min(1.0, (self.added + self.changed + self.removed) / max(before, after)) if before else 0.0

    @property
    def length_share(self) -> float:
        """The same of the number alone."""
        before = self.changed + self.unchanged + self.removed
        after = self.changed + self.unchanged + self.added
        return abs(after - before) / max(before, after) if before else 0.0


def shown(value: bytes | None) -> str | None:
    """A value as text of bounded length."""
    return None if value is None else value[:200].decode(errors="backslashreplace")


class Collection(NamedTuple):
    """How a type of many members is written, asked for and compared, a batch at a time.

    ``roles`` name its columns. ``ask`` also gets how many members came before the batch.
    """

    roles: tuple[str, ...]
    size: bytes
    fill: Callable[[bytes, Values], Values]
    ask: Callable[[bytes, Values, int], Values]
    compare: Callable[[Values, Sequence[bytes | None]], Drift]
    is_unique: bool = True


def _interleaved(scored: Values) -> Values:
    found = scored[:]
    found[0::2], found[1::2] = scored[1::2], scored[0::2]
    return found


def _differences(
    names: Values, new: Values, old: Sequence[bytes | None], same: Callable[[bytes, bytes], bool] = bytes.__eq__
) -> Drift:
    added = changed = 0
    examples: list[Example] = []
    for name, now, was in zip(names, new, old, strict=True):
        if was is None:
            added += 1
        elif was == now or same(was, now):
            continue
        else:
            changed += 1
        if len(examples) < EXAMPLES:
            examples.append(Example(shown(name) or "", shown(was), shown(now)))
    return Drift(added, changed, 0, len(names) - added - changed, tuple(examples))


def _same_number(was: bytes, now: bytes) -> bool:
    try:
        return float(was) == float(now)
    except ValueError:
        return False  # which Redis refuses in its own words


def _compare_pairs(pairs: Values, old: Sequence[bytes | None]) -> Drift:
    if old == pairs[1::2]:
        return Drift(unchanged=len(old))
    return _differences(pairs[0::2], pairs[1::2], old)


def _compare_scores(pairs: Values, old: Sequence[bytes | None]) -> Drift:
    if old == pairs[1::2]:
        return Drift(unchanged=len(old))
    return _differences(pairs[0::2], pairs[1::2], old, _same_number)


def _compare_members(members: Values, old: Sequence[Any]) -> Drift:
    new = [member for member, known in zip(members, old, strict=True) if not known]
    examples = tuple(Example(shown(member) or "", None, "") for member in new[:EXAMPLES])
    return Drift(added=len(new), unchanged=len(members) - len(new), examples=examples)


def _compare_items(items: Values, old: Sequence[bytes | None]) -> Drift:
    if old == items:
        return Drift(unchanged=len(items))
    padded = list(old) + [None] * (len(items) - len(old))
    return _differences(items, items, padded)


COLLECTIONS = {
    "hash": Collection(
        ("field", "value"),
        b"HLEN",
        lambda key, pairs: [b"HSET", key, *pairs],
        lambda key, pairs, _: [b"HMGET", key, *pairs[0::2]],
        _compare_pairs,
    ),
    "zset": Collection(
        ("member", "score"),
        b"ZCARD",
        lambda key, pairs: [b"ZADD", key, *_interleaved(pairs)],
        lambda key, pairs, _: [b"ZMSCORE", key, *pairs[0::2]],
        _compare_scores,
    ),
    "set": Collection(
        ("member",),
        b"SCARD",
        lambda key, members: [b"SADD", key, *members],
        lambda key, members, _: [b"SMISMEMBER", key, *members],
        _compare_members,
    ),
    "list": Collection(
        ("value",),
        b"LLEN",
        lambda key, items: [b"RPUSH", key, *items],
        lambda key, items, before: [b"LRANGE", key, b"%d" % before, b"%d" % (before + len(items) - 1)],
        _compare_items,
        is_unique=False,
    ),
}


def template_fields(key: str) -> list[str]:
    """The columns that a key names; none for a fixed key. ``{{`` and ``}}`` are braces of the key's own."""
    return [found for found in _FIELD.findall(key) if found]


def fixed_key(key: str) -> bytes:
    return key.replace("{{", "{").replace("}}", "}").encode("utf-8", "surrogateescape")


def may_meet(template: str, names: Iterable[str]) -> bool:
    """Whether keys of a template can be among these keys and glob patterns: by what stands before the first part that
    varies, which may say yes too often and never no."""
    own = _FIELD.split(template.replace("{{", "{").replace("}}", "}"))[0] if not template_fields(template) else ""
    fixed = own or re.split(r"\{(?!\{)", template)[0]
    for name in names:
        literal = re.split(r"[*?\[\\]", name)[0]
        if template_fields(template) or literal != name:
            if literal.startswith(fixed) or fixed.startswith(literal):
                return True
        elif fixed_key(template) == name.encode("utf-8", "surrogateescape"):
            return True
    return False


def in_roles(roles: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Which column is which role: by name where the query names them all so, else by position. Raises RefreshError."""
    if len(columns) != len(roles):
        raise RefreshError("columns", wanted=", ".join(roles), found=", ".join(columns))
    folded = [column.lower() for column in columns]
    if sorted(folded) == sorted(roles):
        return [folded.index(role) for role in roles]
    return list(range(len(roles)))


def reordered(batch: Values, order: Sequence[int]) -> Values:
    """A batch whose columns stand in the order of their roles."""
    if list(order) == list(range(len(order))):
        return batch
    found = batch[:]
    for place, column in enumerate(order):
        found[place :: len(order)] = batch[column :: len(order)]
    return found


class PerKey(NamedTuple):
    """How rows become one value for each key: a key of its columns ``parts`` (bytes or a column's number), and the
    columns that are its value."""

    kind: str
    parts: tuple[bytes | int, ...]
    columns: tuple[str, ...]
    numbers: tuple[bool, ...]
    values: tuple[int, ...]

    @property
    def is_fixed(self) -> bool:
        return not any(isinstance(part, int) for part in self.parts)

    def grouped(self, batches: Iterable[list[bytes | None]]) -> Iterator[list[tuple[bytes, Values]]]:
        """Batches of (key, value). Rows of one key stand together for collections; a single value has one row."""
        many = self.kind in ("set", "zset", "list") or (self.kind == "json" and self.is_fixed)
        open_key: bytes | None = None
        open_values: Values = []
        for batch in batches:
            done: list[tuple[bytes, Values]] = []
            for row in self._rows(batch):
                key, value = self._key(row), self._value(row)
                if many and key == open_key:
                    open_values += value
                    continue
                if open_key is not None:
                    if key == open_key:
                        raise RefreshError("many_rows", key=shown(key))
                    done.append(self._finished(open_key, open_values))
                open_key, open_values = key, value
            yield done
        if open_key is not None:
            yield [self._finished(open_key, open_values)]

    def _finished(self, key: bytes, values: Values) -> tuple[bytes, Values]:
        if self.kind == "json" and self.is_fixed:
            return key, [b"[" + b",".join(values) + b"]"]
        if self.kind in ("set", "zset"):
            members = values[:: len(COLLECTIONS[self.kind].roles)]
            if len(set(members)) < len(members):
                raise RefreshError("duplicate", name=shown(Counter(members).most_common(1)[0][0]))
        return key, values

    def _rows(self, batch: list[bytes | None]) -> Iterator[Sequence[bytes | None]]:
        width = len(self.columns)
        return zip(*(batch[column::width] for column in range(width)), strict=True)

    def _key(self, row: Sequence[bytes | None]) -> bytes:
        return b"".join(part if isinstance(part, bytes) else self._filled(row, part) for part in self.parts)

    def _filled(self, row: Sequence[bytes | None], column: int) -> bytes:
        value = row[column]
        if value is None:
            raise RefreshError("null", column=self.columns[column])
        return value

    def _value(self, row: Sequence[bytes | None]) -> Values:
        if self.kind == "json":
            return [b"{" + b",".join(self._member(row, column) for column in self.values) + b"}"]
        if self.kind == "hash":
            return [
                part for column in self.values for part in (self.columns[column].encode(), self._filled(row, column))
            ]
        found = [self._filled(row, column) for column in self.values]
        if self.kind == "zset" and not _is_score(found[1]):
            raise RefreshError("number", first=shown(found[1]), last=shown(found[0]))
        return found

    def _member(self, row: Sequence[bytes | None], column: int) -> bytes:
        value = row[column]
        name = msgspec.json.encode(self.columns[column])
        if value is None:
            return name + b":null"
        if self.numbers[column]:
            # What JSON writes otherwise: 007 of a ZEROFILL column.
            plain = value.lstrip(b"0")
            plain = plain if plain[:1].isdigit() else b"0" + plain
            return name + b":" + (value if _JSON_NUMBER.fullmatch(value) else plain)
        try:
            return name + b":" + msgspec.json.encode(value.decode())
        except UnicodeDecodeError as error:
            raise RefreshError("not_text", column=self.columns[column]) from error


def _is_score(value: bytes) -> bool:
    """Checked before anything is written: the transaction that replaces a value does not roll back."""
    try:
        return not math.isnan(float(value)) and b"_" not in value
    except ValueError:
        return False


def per_key(kind: str, key: str, columns: Sequence[tuple[str, bool]]) -> PerKey:
    """The columns that the key names (or numbers, from 1) are the key's, others the value's. Raises RefreshError."""
    names = [name for name, _ in columns]
    parts: list[bytes | int] = []
    end = 0
    for found in _FIELD.finditer(key):
        parts += [key[end : found.start()].encode("utf-8", "surrogateescape")]
        parts += [_column(found[1], names) if found[1] else found[0][:1].encode()]
        end = found.end()
    parts.append(key[end:].encode("utf-8", "surrogateescape"))
    used = {part for part in parts if isinstance(part, int)}
    values = [column for column in range(len(names)) if column not in used]
    roles = COLLECTIONS[kind].roles if kind in ("set", "zset", "list") else ("value",) if kind == "string" else None
    if roles is not None:
        values = [values[place] for place in in_roles(roles, [names[column] for column in values])]
    elif not values:
        raise RefreshError("columns", wanted="at least one besides the key's", found=", ".join(names))
    inside = [names[column] for column in values]
    if kind in ("hash", "json") and len(set(inside)) < len(inside):
        raise RefreshError("twice", column=Counter(inside).most_common(1)[0][0])
    numbers = tuple(is_number for _, is_number in columns)
    return PerKey(kind, tuple(part for part in parts if part != b""), tuple(names), numbers, tuple(values))


def _column(field: str, names: Sequence[str]) -> int:
    if field in names:
        return names.index(field)
    if field.isdecimal() and 1 <= int(field) <= len(names):
        return int(field) - 1
    raise RefreshError("field", field=field, found=", ".join(names))


def write(kind: str, key: bytes, values: Values, ttl_ms: int) -> list[Values]:
    """The commands that replace a key's value at once, with its TTL."""
    if kind in ("string", "json"):
        return [[b"SET", key, values[0], b"PX", b"%d" % ttl_ms]]
    fill = COLLECTIONS[kind].fill(key, values)
    return [[b"MULTI"], [b"UNLINK", key], fill, [b"PEXPIRE", key, b"%d" % ttl_ms], [b"EXEC"]]


def ask(kind: str, keys: Sequence[bytes]) -> list[Values]:
    """The commands that give the values of keys."""
    if kind in ("string", "json"):
        return [[b"MGET", *keys]]
    command: dict[str, tuple[Values, Values]] = {
        "hash": ([b"HGETALL"], []),
        "set": ([b"SMEMBERS"], []),
        "zset": ([b"ZRANGE"], [b"0", b"-1", b"WITHSCORES"]),
        "list": ([b"LRANGE"], [b"0", b"-1"]),
    }
    before, after = command[kind]
    return [[*before, key, *after] for key in keys]


def compare(kind: str, groups: Sequence[tuple[bytes, Values]], answers: Sequence[Any]) -> Drift:
    """What differs between new values and the answers to ``ask``; an error among them is a value of another type."""
    if kind in ("string", "json"):
        new = [values[0] for _, values in groups]
        return _differences([key for key, _ in groups], new, answers[0])
    drift = Drift()
    for (key, values), answer in zip(groups, answers, strict=True):
        if isinstance(answer, Exception) or not answer:
            other = Drift(added=1) if not answer else Drift(changed=1)
        else:
            other = Drift(unchanged=1) if _content(kind, answer) == _content(kind, values) else Drift(changed=1)
        if not other.unchanged:
            was = None if not answer else _listed(answer)
            other = other._replace(examples=(Example(shown(key) or "", was, _listed(values)),))
        drift = drift.plus(other)
    return drift


def _content(kind: str, values: Any) -> object:
    """A collection without what its order or its numbers' form adds."""
    if kind == "list":
        return list(values)
    if kind == "set":
        return set(values)
    pairs = dict(zip(values[0::2], values[1::2], strict=True))
    return {member: _number(score) for member, score in pairs.items()} if kind == "zset" else pairs


def _number(score: bytes) -> float | bytes:
    try:
        return float(score)
    except ValueError:
        return score


def _listed(values: Any) -> str:
    return "another type" if isinstance(values, Exception) else shown(b" ".join(values[:20])) or ""
