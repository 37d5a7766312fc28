"""How the rows of a refresh become one value for each key: the key's columns, the commands to write and read it, and
the differences. Pure; values are bytes, as in ``mapping``."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from restart_guard.errors import RefreshError
from restart_guard.mysql.rows import Kind
from restart_guard.refreshes.mapping import COLLECTIONS, FIELD, Drift, Example, Values, differences, in_roles, shown

_JSON_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class PerKey(NamedTuple):
    """How rows become one value for each key: ``parts`` make the key (bytes, or a column's number), ``values`` are the
    columns of its value."""

    kind: str
    parts: tuple[bytes | int, ...]
    columns: tuple[str, ...]
    kinds: tuple[Kind, ...]
    values: tuple[int, ...]

    @property
    def is_fixed(self) -> bool:
        return not any(isinstance(part, int) for part in self.parts)

    def grouped(self, batches: Iterable[list[bytes | None]]) -> Iterator[list[tuple[bytes, Values]]]:
        """Batches of (key, value). For collections the rows of one key stand together; a single value has one row."""
        many = self.kind in ("set", "zset", "list") or (self.kind == "json" and self.is_fixed)
        open_key: bytes | None = None
        open_values: Values = []
        key_of = self._keys()
        for batch in batches:
            done: list[tuple[bytes, Values]] = []
            for row in self._rows(batch):
                key, value = key_of(row), self._value(row)
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

    def _keys(self) -> Callable[[Sequence[bytes | None]], bytes]:
        """A function that makes the key of a row."""
        pattern = b"".join(part.replace(b"%", b"%%") if isinstance(part, bytes) else b"%b" for part in self.parts)
        columns = [part for part in self.parts if isinstance(part, int)]

        def key(row: Sequence[bytes | None]) -> bytes:
            try:
                return pattern % tuple([row[column] for column in columns])
            except TypeError:  # None has no bytes
                return b"".join([self._filled(row, column) for column in columns])

        return key

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
        parts = [self._filled(row, column) for column in self.values]
        if self.kind == "zset" and not _is_score(parts[1]):
            raise RefreshError("number", first=shown(parts[1]), last=shown(parts[0]))
        return parts

    def _member(self, row: Sequence[bytes | None], column: int) -> bytes:
        value = row[column]
        name = msgspec.json.encode(self.columns[column])
        if value is None:
            return name + b":null"
        if self.kinds[column] is Kind.JSON:
            return name + b":" + value
        if self.kinds[column] is Kind.NUMBER:
            # JSON writes some numbers differently: 007 of a ZEROFILL column.
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


def per_key(kind: str, key: str, columns: Sequence[tuple[str, Kind]]) -> PerKey:
    """The columns that the key names (or numbers, from 1) make the key, the others the value. Raises RefreshError."""
    names = [name for name, _ in columns]
    parts: list[bytes | int] = []
    end = 0
    for match in FIELD.finditer(key):
        parts += [key[end : match.start()].encode("utf-8", "surrogateescape")]
        parts += [_column(match[1], names) if match[1] else match[0][:1].encode()]
        end = match.end()
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
    kinds = tuple(kind for _, kind in columns)
    return PerKey(kind, tuple(part for part in parts if part != b""), tuple(names), kinds, tuple(values))


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
    """The commands that read the values of keys."""
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
    """The differences between new values and the answers to ``ask``; an error among them is a value of another type."""
    if kind in ("string", "json"):
        new = [values[0] for _, values in groups]
        return differences([key for key, _ in groups], new, answers[0])
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
    """A collection's content, without its order or the form of its numbers."""
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
