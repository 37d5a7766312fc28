"""Reads a check's keys from Redis in batches, in limited memory, and judges them."""

import codecs
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import redis

from restart_guard import clock
from restart_guard.checks.outcome import KeyProblem, Reading
from restart_guard.checks.rules import bounds, describe, judge
from restart_guard.checks.sieve import Sieve, Suspect
from restart_guard.config.options import Check, Redis
from restart_guard.counts import counted
from restart_guard.durations import span
from restart_guard.errors import Remedy, StoreError
from restart_guard.redis_server import persistence
from restart_guard.redis_server.client import connected, error_word, has_lost_master

BATCH = 1000
"""Keys in one pipeline: larger ones are no faster and hold more memory."""

EXAMPLES = 100
"""Bad keys that are kept with their reason; of the rest only the number is."""

_VALUE_BYTES = 8 * 2**20
_LARGEST_JSON = 256 * 2**20
_PART_BYTES = 2**20
_MISSING = -2  # PTTL of a key that does not exist
_JSON = msgspec.json.Decoder(msgspec.Raw)
_SIZE_COMMANDS = {
    "string": "STRLEN",
    "hash": "HLEN",
    "list": "LLEN",
    "set": "SCARD",
    "zset": "ZCARD",
    "stream": "XLEN",
}

Progress = Callable[[int, int | None], None]
"""Told after each batch: keys read so far, and their number where it is known."""


def read(settings: Redis, check: Check, *, progress: Progress) -> Reading:
    """Read everything that a check names and judge it. Errors of the server are in the result, never raised."""
    tally, begun = _Tally(check, progress), clock.monotonic()
    try:
        with connected(settings, whole_s=check.timeout + settings.timeout) as client:
            for problem in persistence.problems(client) if settings.require_persistence else ():
                tally.note(KeyProblem("redis", "persistence", problem))
            _read_keys(client, check, tally)
            for pattern in check.patterns:
                _read_pattern(client, check, pattern, tally)
            if tally.bad_total and has_lost_master(client):
                tally.trouble = StoreError("the link to its master is down", code="unsynced", remedy=Remedy.WAIT)
    except StoreError as error:
        tally.trouble = error if clock.monotonic() <= tally.deadline else tally.slow()
    return Reading(
        *(tally.keys, tuple(tally.bad), tally.bad_total, tally.trouble, frozenset(tally.codes), tally.bad_patterns),
        least_ttl_s=None if tally.least_pttl < 0 else tally.least_pttl / 1000,
        size=tally.size,
        took_s=clock.monotonic() - begun,
    )


class _Tally:
    """The findings of one read so far."""

    def __init__(self, check: Check, progress: Progress) -> None:
        self.check = check
        self.progress = progress
        self.deadline = clock.monotonic() + check.timeout
        self.total = None if check.patterns else len(check.keys)
        self.keys = 0
        self.bad: list[KeyProblem] = []
        self.bad_total = 0
        self.codes: set[str] = set()
        self.bad_patterns = 0
        self.trouble: StoreError | None = None
        self.least_pttl = -1
        self.size = 0

    def see(self, pttl: int, size: int | None) -> None:
        if pttl >= 0 and (self.least_pttl < 0 or pttl < self.least_pttl):
            self.least_pttl = pttl
        self.size += size or 0

    def count(self, keys: int) -> None:
        """Keys were read. Raises StoreError when the check's time is up."""
        self.keys += keys
        self.progress(self.keys, self.total)
        self.check_time()

    def check_time(self) -> None:
        if clock.monotonic() > self.deadline:
            raise self.slow()

    def slow(self) -> StoreError:
        return StoreError(
            f"{counted(self.keys, 'key')} in {span(self.check.timeout)}", code="slow", remedy=Remedy.RETRY
        )

    def note(self, bad: KeyProblem) -> None:
        self.bad_total += 1
        self.codes.add(bad.code)
        self.bad_patterns += bad.code == "few"
        if len(self.bad) < EXAMPLES:
            self.bad.append(bad)


def _read_keys(client: redis.Redis, check: Check, tally: _Tally) -> None:
    sieve = _sieve(client, check)
    for start in range(0, len(check.keys), BATCH):
        keys = [key.encode("utf-8", "surrogateescape") for key in check.keys[start : start + BATCH]]
        sifted = sieve.keys(keys)
        if sifted is None:
            _judge(client, keys, tally, must_exist=True)
        else:
            # Behind a proxy that spreads keys over servers a script sees the keys of one server only.
            missing = [suspect.key for suspect in sifted.suspects if suspect.pttl == _MISSING]
            tally.see(sifted.least_pttl, sifted.size)
            _judge_suspects((one for one in sifted.suspects if one.pttl != _MISSING), tally, must_exist=True)
            _judge(client, missing, tally, must_exist=True)
        tally.count(len(keys))


def _sieve(client: redis.Redis, check: Check) -> Sieve:
    """With format json all values must be fetched anyway, so the sieve is not used."""
    sieve = Sieve(client, bounds(check))
    sieve.works = check.format != "json"
    return sieve


def _judge_suspects(suspects: Iterable[Suspect], tally: _Tally, *, must_exist: bool) -> int:
    """Judge the keys that the sieve returned. Returns the number of keys that do not exist after all."""
    verdict, missing = judge(tally.check), 0
    for key, kind, pttl, size in suspects:
        tally.see(pttl, size)
        code = verdict(kind, pttl, size)
        if code == "missing" and not must_exist:
            missing += 1
        elif code is not None:
            tally.note(describe(tally.check, _shown(key), code, (kind, pttl, size)))
    return missing


def _read_pattern(client: redis.Redis, check: Check, pattern: str, tally: _Tally) -> None:
    """Read the keys that match a pattern, a page at a time. A key that SCAN returns twice counts twice."""
    matched, cursor = 0, -1
    sieve = _sieve(client, check)
    while cursor != 0:
        sifted = sieve.page(pattern, max(cursor, 0), BATCH)
        if sifted is None:
            break
        tally.see(sifted.least_pttl, sifted.size)
        present = sifted.keys - _judge_suspects(sifted.suspects, tally, must_exist=False)
        cursor, matched = sifted.cursor, matched + present
        tally.count(present)
    page: list[bytes] = []
    while cursor != 0:
        cursor, keys = client.scan(cursor=max(cursor, 0), match=pattern, count=BATCH)
        page += [key for key in keys if isinstance(key, bytes)]
        tally.check_time()
        if len(page) >= BATCH or cursor == 0:
            # A key may expire between SCAN and its turn: that is no problem, it is just not counted.
            present = _judge(client, page, tally, must_exist=False)
            matched += present
            tally.count(present)
            page = []
    wanted = 1 if check.min_keys is None else check.min_keys
    if matched < wanted:
        tally.note(KeyProblem(pattern, "few", str(matched), str(wanted)))


def _judge(client: redis.Redis, keys: list[bytes], tally: _Tally, *, must_exist: bool) -> int:
    """Judge a batch of keys. Returns the number of those that exist."""
    check = tally.check
    verdict = judge(check)
    facts = _facts(client, keys, check)
    strings: list[tuple[bytes, int]] = []
    present = len(keys)
    for key, (kind, pttl, size) in zip(keys, facts, strict=True):
        code = verdict(kind, pttl, size)
        tally.see(pttl, size)
        if code is None:
            if check.format == "json":
                if (size or 0) <= _LARGEST_JSON:
                    strings.append((key, size or 0))
                else:
                    largest = f"{_LARGEST_JSON >> 20} MiB"
                    tally.note(KeyProblem(_shown(key), "huge", f"{(size or 0) >> 20} MiB", largest))
        elif code == "missing" and not must_exist:
            present -= 1
        else:
            tally.note(describe(check, _shown(key), code, (kind, pttl, size)))
    for batch in _by_bytes(strings):
        _judge_json(client, batch, tally)
    return present


def _facts(client: redis.Redis, keys: list[bytes], check: Check) -> list[tuple[str, int, int | None]]:
    """Type, PTTL and size of each key. One round trip if the check names the type, else two."""
    guess = "string" if check.format == "json" else check.type
    command = _SIZE_COMMANDS.get(guess)
    # Redis removes a collection with its last member, so only strings can be empty.
    if command and guess != "string" and check.min_size <= 1 and check.max_size is None:
        command = None
    asks_size = command is not None
    pipeline = client.pipeline(transaction=False)
    ask: Any = pipeline.execute_command
    for key in keys:
        ask("TYPE", key)
        ask("PTTL", key)
        if command is not None:
            ask(command, key)
    answers = pipeline.execute(raise_on_error=False)
    width = 3 if asks_size else 2
    kinds = [_text(answer) for answer in answers[0::width]]
    pttls = [_number(answer) for answer in answers[1::width]]
    if asks_size:
        sizes = [_size(answer) for answer in answers[2::width]]
    elif guess == "any":
        sizes = _sizes(client, keys, kinds)
    else:
        sizes = [None] * len(keys)
    return [
        ("none" if pttl == _MISSING else kind, pttl, size) for kind, pttl, size in zip(kinds, pttls, sizes, strict=True)
    ]


def _sizes(client: redis.Redis, keys: list[bytes], kinds: list[str]) -> list[int | None]:
    pipeline = client.pipeline(transaction=False)
    asked = [index for index, kind in enumerate(kinds) if kind in _SIZE_COMMANDS]
    for index in asked:
        pipeline.execute_command(_SIZE_COMMANDS[kinds[index]], keys[index])
    sizes: list[int | None] = [None] * len(keys)
    for index, answer in zip(asked, pipeline.execute(raise_on_error=False), strict=True):
        # A collection of size 0 has disappeared since its type was read.
        size = _size(answer)
        sizes[index] = size if size or kinds[index] == "string" else None
    return sizes


def _by_bytes(strings: Iterable[tuple[bytes, int]]) -> Iterator[list[bytes]]:
    """Groups of keys whose values fit in limited memory together; a larger value is in a group alone."""
    group: list[bytes] = []
    held = 0
    for key, size in strings:
        if group and held + size > _VALUE_BYTES:
            yield group
            group, held = [], 0
        group.append(key)
        held += size
    if group:
        yield group


def _judge_json(client: redis.Redis, keys: list[bytes], tally: _Tally) -> None:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.execute_command("GET", key)
    for key, value in zip(keys, pipeline.execute(raise_on_error=False), strict=True):
        if isinstance(value, redis.ResponseError):
            if error_word(value) != "WRONGTYPE":
                raise value
            tally.note(KeyProblem(_shown(key), "type", "?", "string"))
        elif value is None:
            tally.note(KeyProblem(_shown(key), "missing"))
        else:
            try:
                _check_json(value)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                tally.note(KeyProblem(_shown(key), "json", reason))


def _check_json(value: bytes) -> None:
    """Without an object for each value in it: of a large one these would take many times its size. Raises what the
    decoder raises."""
    _JSON.decode(value)
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(value), _PART_BYTES):
        decoder.decode(value[start : start + _PART_BYTES], final=start + _PART_BYTES >= len(value))


def _size(answer: Any) -> int | None:
    """None for a key of another type than expected, since the type is judged first. Any other error ends the read."""
    if isinstance(answer, redis.ResponseError) and error_word(answer) == "WRONGTYPE":
        return None
    return _number(answer)


def _text(answer: Any) -> str:
    if isinstance(answer, Exception):
        raise answer
    return str(answer.decode() if isinstance(answer, bytes) else answer)


def _number(answer: Any) -> int:
    if isinstance(answer, Exception):
        raise answer
    return int(answer)


def _shown(key: bytes) -> str:
    """A key as text of limited length: its name may have megabytes."""
    return key[:300].decode(errors="backslashreplace")
