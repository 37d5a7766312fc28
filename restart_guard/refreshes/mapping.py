"""How the rows of a refresh become Redis data: key templates, the roles of columns, and differences. Pure.

Values are bytes throughout, as MySQL sent them; in a batch the values of a row stand one after the other.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from restart_guard.errors import RefreshError

EXAMPLES = 5
FIELD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
"""A column in a key, or a doubled brace."""

Values = list[bytes]


class Example(NamedTuple):
    """A difference; ``was`` is None for a new member, ``now`` for one that is gone."""

    name: str
    was: str | None
    now: str | None


class Drift(NamedTuple):
    """The differences between Redis and MySQL, in members of a collection or in keys."""

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
        """The share that differs, of the larger of old and new, at most 1; 0 if nothing was there: then nothing can be
        damaged."""
        before = self.changed + self.unchanged + self.removed
        after = self.changed + self.unchanged + self.added
        return min(1.0, (self.added + self.changed + self.removed) / max(before, after)) if before else 0.0

    @property
    def length_share(self) -> float:
        """The share by which the number of members differs."""
        before = self.changed + self.unchanged + self.removed
        after = self.changed + self.unchanged + self.added
        return abs(after - before) / max(before, after) if before else 0.0


def shown(value: bytes | None) -> str | None:
    """A value as text of limited length."""
    return None if value is None else value[:200].decode(errors="backslashreplace")


class Collection(NamedTuple):
    """How a type with many members is written, read and compared, a batch at a time.

    ``roles`` are the names of its columns. ``ask`` also gets the number of members before the batch.
    """

    roles: tuple[str, ...]
    size: bytes
    fill: Callable[[bytes, Values], Values]
    ask: Callable[[bytes, Values, int], Values]
    compare: Callable[[Values, Sequence[bytes | None]], Drift]
    is_unique: bool = True


def _interleaved(scored: Values) -> Values:
    pairs = scored[:]
    pairs[0::2], pairs[1::2] = scored[1::2], scored[0::2]
    return pairs


def differences(
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
        return False  # Redis will refuse it with its own error


def _compare_pairs(pairs: Values, old: Sequence[bytes | None]) -> Drift:
    if old == pairs[1::2]:
        return Drift(unchanged=len(old))
    return differences(pairs[0::2], pairs[1::2], old)


def _compare_scores(pairs: Values, old: Sequence[bytes | None]) -> Drift:
    if old == pairs[1::2]:
        return Drift(unchanged=len(old))
    return differences(pairs[0::2], pairs[1::2], old, _same_number)


def _compare_members(members: Values, old: Sequence[Any]) -> Drift:
    new = [member for member, known in zip(members, old, strict=True) if not known]
    examples = tuple(Example(shown(member) or "", None, "") for member in new[:EXAMPLES])
    return Drift(added=len(new), unchanged=len(members) - len(new), examples=examples)


def _compare_items(items: Values, old: Sequence[bytes | None]) -> Drift:
    if old == items:
        return Drift(unchanged=len(items))
    padded = list(old) + [None] * (len(items) - len(old))
    return differences(items, items, padded)


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
    """The columns in a key template; none for a fixed key. ``{{`` and ``}}`` stand for braces in the key."""
    return [field for field in FIELD.findall(key) if field]


def fixed_key(key: str) -> bytes:
    return key.replace("{{", "{").replace("}}", "}").encode("utf-8", "surrogateescape")


def may_meet(template: str, names: Iterable[str]) -> bool:
    """Whether keys of a template can be among these keys and glob patterns, by the text before the first part that
    varies. It may say yes too often and never no."""
    own = FIELD.split(template.replace("{{", "{").replace("}}", "}"))[0] if not template_fields(template) else ""
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
    """The column of each role: by name if the query names all of them, else by position. Raises RefreshError."""
    if len(columns) != len(roles):
        raise RefreshError("columns", wanted=", ".join(roles), found=", ".join(columns))
    folded = [column.lower() for column in columns]
    if sorted(folded) == sorted(roles):
        return [folded.index(role) for role in roles]
    return list(range(len(roles)))


def reordered(batch: Values, order: Sequence[int]) -> Values:
    """A batch with its columns in the order of their roles."""
    if list(order) == list(range(len(order))):
        return batch
    result = batch[:]
    for place, column in enumerate(order):
        result[place :: len(order)] = batch[column :: len(order)]
    return result
