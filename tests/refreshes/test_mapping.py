"""How rows become Redis data: templates, columns, differences. Pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restart_guard.errors import RefreshError
from restart_guard.mysql.rows import Kind
from restart_guard.refreshes import mapping, per_key
from restart_guard.refreshes.mapping import Drift
from restart_guard.refreshes.scratch import Scratch

COLUMNS = [("id", Kind.NUMBER), ("title", Kind.TEXT), ("n", Kind.NUMBER)]


def groups(kind: str, key: str, *rows: list[bytes | None]) -> list[tuple[bytes, list[bytes]]]:
    how = per_key.per_key(kind, key, COLUMNS)
    return [one for batch in how.grouped(map(list, rows)) for one in batch]


def test_templates() -> None:
    """By name or by number, braces of the key's own doubled; what is not a column is told."""
    row: list[bytes | None] = [b"7", b"\xff", b"007"]
    assert groups("hash", "a:{id}:{2}", row) == [(b"a:7:\xff", [b"n", b"007"])]
    assert groups("json", "{{x}}:{id}:{title}", row) == [(b"{x}:7:\xff", [b'{"n":7}'])]
    assert mapping.fixed_key("{{tag}}:all") == b"{tag}:all"
    assert mapping.template_fields("{{tag}}:all") == []
    for key in ("a:{other}", "a:{0}", "a:{4}"):
        with pytest.raises(RefreshError, match="field"):
            per_key.per_key("hash", key, COLUMNS)
    with pytest.raises(RefreshError, match="columns"):
        per_key.per_key("hash", "{id}{title}{n}", COLUMNS)


def test_a_null_only_json_can_say() -> None:
    """NULL becomes null in JSON, and is refused in any other type and in a key."""
    assert groups("json", "{id}", [b"1", None, None]) == [(b"1", [b'{"title":null,"n":null}'])]
    for kind, row in (("hash", [b"1", None, b"2"]), ("json", [None, b"x", b"2"])):
        with pytest.raises(RefreshError, match="null"):
            groups(kind, "{id}", row)
    with pytest.raises(RefreshError, match="not_text"):
        groups("json", "{id}", [b"1", b"\xff", b"2"])


@pytest.mark.parametrize(
    ("number", "shown"),
    [(number, number) for number in (b"0", b"-0.50", b"12345678901234567890.5", b"1e20")] + [(b"000", b"0")],
)
def test_numbers_stay_as_they_are_in_json(number: bytes, shown: bytes) -> None:
    """A number is not quoted and loses no digit; 007 becomes 7."""
    assert groups("json", "{id}", [b"1", b"x", number]) == [(b"1", [b'{"title":"x","n":' + shown + b"}"])]


def test_rows_of_a_key_stand_together() -> None:
    """Across batches too; a member twice is told."""
    how = per_key.per_key("zset", "{id}", COLUMNS)
    batches: list[list[bytes | None]] = [[b"1", b"a", b"5"], [b"1", b"b", b"6", b"2", b"c", b"7"]]
    assert [one for batch in how.grouped(batches) for one in batch] == [
        (b"1", [b"a", b"5", b"b", b"6"]),
        (b"2", [b"c", b"7"]),
    ]
    with pytest.raises(RefreshError, match="duplicate"):
        list(how.grouped([[b"1", b"a", b"5", b"1", b"a", b"6"]]))


pairs = st.dictionaries(st.binary(max_size=6), st.binary(max_size=6), max_size=20)


@given(pairs, pairs)
def test_drift_of_a_hash_is_the_difference_of_dictionaries(old: dict[bytes, bytes], new: dict[bytes, bytes]) -> None:
    """Added, changed and unchanged by batches are what a comparison of the whole gives."""
    kind = mapping.COLLECTIONS["hash"]
    flat = [part for pair in new.items() for part in pair]
    drift = kind.compare(flat, [old.get(name) for name in new])
    assert drift.added == len(new.keys() - old.keys())
    assert drift.changed == sum(old[name] != new[name] for name in new.keys() & old.keys())
    assert drift.unchanged == len(new) - drift.added - drift.changed
    assert len(drift.examples) == min(mapping.EXAMPLES, drift.added + drift.changed)


@given(*[st.integers(0, 50)] * 4)
def test_the_share_that_differs(added: int, changed: int, removed: int, unchanged: int) -> None:
    """From 0 to 1; where nothing was, nothing can be ruined."""
    drift = Drift(added, changed, removed, unchanged)
    assert 0 <= drift.share <= 1
    assert 0 <= drift.length_share <= 1
    if changed + removed + unchanged == 0:
        assert drift.share == 0


def test_scores_are_compared_as_numbers() -> None:
    """1.50 and 1.5 are the same score."""
    drift = mapping.COLLECTIONS["zset"].compare([b"a", b"1.50", b"b", b"2"], [b"1.5", b"3"])
    assert (drift.unchanged, drift.changed) == (1, 1)


def test_temporary_keys_share_the_hash_slot() -> None:
    """By the rule of Redis Cluster: what stands in the first braces, if they are not empty."""
    assert Scratch.beside(b"count").building == b"{count}:restart-guard:new"
    assert Scratch.beside(b"a:{42}:b").leaving == b"a:{42}:b:restart-guard:old"
