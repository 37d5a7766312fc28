"""The rules for a good read: a key's facts and a check give a problem or none. And the TTL that is left at the next
run."""

import math
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from restart_guard.checks.outcome import KeyProblem
from restart_guard.config.options import Check
from restart_guard.durations import span

NO_EXPIRY = -1  # PTTL's answer for a key that never expires
Judge = Callable[[str, int, int | None], str | None]


def judge(check: Check) -> Judge:
    """Returns a function of (type, PTTL in ms, size) that gives the code of the first problem, or None.

    The limits are bound once, since it runs a million times. The size is None for a type that has none.
    """
    wanted_type = _wanted_type(check)
    least, most = check.min_size, check.max_size
    bounds_ttl = check.min_ttl is not None or check.max_ttl is not None or check.max_age is not None
    least_ms, most_ms, freshest_ms = _milliseconds(check)

    def verdict(kind: str, pttl: int, size: int | None) -> str | None:
        if kind == "none":
            return "missing"
        if wanted_type is not None and kind != wanted_type:
            return "type"
        if size is not None:
            if size < least:
                return "empty" if size == 0 else "small"
            if most is not None and size > most:
                return "large"
        if not bounds_ttl:
            return None
        if pttl == NO_EXPIRY:
            return "no_ttl" if most_ms is not None or freshest_ms is not None else None
        if freshest_ms is not None and pttl < freshest_ms:
            return "stale"
        if least_ms is not None and pttl < least_ms:
            return "ttl_low"
        return "ttl_high" if most_ms is not None and pttl > most_ms else None

    return verdict


class Bounds(NamedTuple):
    """Limits, in Redis' own units, that every good key keeps; None means no limit. A key outside them is not bad yet:
    ``judge`` decides."""

    kind: str | None
    least: int
    most: int | None
    low_ms: int | None
    high_ms: int | None


def bounds(check: Check) -> Bounds:
    least, most, freshest = _milliseconds(check)
    lows = [math.ceil(bound) for bound in (least, freshest) if bound is not None]
    low = max(lows, default=None if most is None else 0)
    return Bounds(_wanted_type(check), check.min_size, check.max_size, low, None if most is None else math.floor(most))


def _wanted_type(check: Check) -> str | None:
    """Only a string can be decoded."""
    if check.format == "json":
        return "string"
    return None if check.type == "any" else check.type


def _milliseconds(check: Check) -> tuple[float | None, float | None, float | None]:
    """The TTL bounds in ms. Data gets ``full_ttl`` when loaded, so its age is full_ttl - ttl, and data that is at most
    ``max_age`` old has at least full_ttl - max_age left."""
    freshest = None if check.max_age is None or check.full_ttl is None else check.full_ttl - check.max_age
    bounds = (check.min_ttl, check.max_ttl, freshest)
    least, most, fresh = (None if bound is None else bound * 1000 for bound in bounds)
    return least, most, fresh


def describe(check: Check, key: str, code: str, facts: tuple[str, int, int | None]) -> KeyProblem:
    """The problem of a key, with the values found and wanted, for a code that ``judge`` gave."""
    kind, pttl, size = facts
    left = span(pttl / 1000)
    match code:
        case "type":
            return KeyProblem(key, code, kind, _wanted_type(check) or "")
        case "small":
            return KeyProblem(key, code, str(size), str(check.min_size))
        case "large":
            return KeyProblem(key, code, str(size), str(check.max_size))
        case "ttl_low":
            return KeyProblem(key, code, left, span(check.min_ttl or 0))
        case "ttl_high":
            return KeyProblem(key, code, left, span(check.max_ttl or 0))
        case "stale":
            return KeyProblem(key, code, span((check.full_ttl or 0) - pttl / 1000), span(check.max_age or 0), left)
    return KeyProblem(key, code)


def least_left(full_ttl_s: float, slots: Iterable[datetime]) -> tuple[float, datetime]:
    """The shortest TTL, in seconds, that is left at the next slot if data is loaded at each slot with its full TTL, and
    when.

    Real time counts: a week that ends daylight saving time has an hour more. Two moments of one zone would subtract as
    wall clocks, hence the timestamps. Raises ValueError for fewer than two slots.
    """
    return min((full_ttl_s - (later.timestamp() - earlier.timestamp()), later) for earlier, later in pairwise(slots))
