"""What a good read is, and what a TTL leaves at the scheduled hour."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from restart_guard.checks.outcome import KeyProblem, Reading
from restart_guard.checks.rules import judge, least_left
from restart_guard.config.options import Check
from restart_guard.durations import Duration
from restart_guard.errors import Remedy, StoreError

HOUR, WEEK = 3600, 7 * 86400


@pytest.mark.parametrize(
    ("options", "facts", "code"),
    [
        ({}, ("string", -1, 1), None),
        ({}, ("none", -2, None), "missing"),
        ({}, ("string", -1, 0), "empty"),
        ({}, ("hash", -1, None), None),
        ({"type": "hash"}, ("string", -1, 5), "type"),
        ({"type": "hash"}, ("none", -2, None), "missing"),
        ({"min_size": 0}, ("string", -1, 0), None),
        ({"min_size": 3}, ("list", -1, 2), "small"),
        ({"max_size": 3}, ("list", -1, 4), "large"),
        ({"min_ttl": Duration(HOUR)}, ("string", HOUR * 1000, 1), None),
        ({"min_ttl": Duration(HOUR)}, ("string", HOUR * 1000 - 1, 1), "ttl_low"),
        ({"min_ttl": Duration(HOUR)}, ("string", -1, 1), None),
        ({"max_ttl": Duration(HOUR)}, ("string", HOUR * 1000 + 1, 1), "ttl_high"),
        ({"max_ttl": Duration(HOUR)}, ("string", -1, 1), "no_ttl"),
        ({"max_age": Duration(HOUR), "full_ttl": Duration(WEEK)}, ("string", (WEEK - HOUR) * 1000, 1), None),
        ({"max_age": Duration(HOUR), "full_ttl": Duration(WEEK)}, ("string", (WEEK - HOUR) * 1000 - 1, 1), "stale"),
        ({"max_age": Duration(HOUR), "full_ttl": Duration(WEEK)}, ("string", -1, 1), "no_ttl"),
    ],
)
def test_a_key_is_judged(options: dict[str, object], facts: tuple[str, int, int | None], code: str | None) -> None:
    """(type, PTTL in ms, size) × the check's bounds → the first thing that is wrong."""
    check = Check(keys=("k",), **options)  # type: ignore[arg-type]
    assert judge(check)(*facts) == code


def test_data_of_the_wrong_type_alone_needs_a_person() -> None:
    """A restart cannot change a type; beside a missing key it can still help with that one."""
    wrong, missing = KeyProblem("a", "type", "hash", "string"), KeyProblem("b", "missing")
    assert Reading(1, (wrong,), 1, codes=frozenset({"type"})).remedy is Remedy.PERSON
    assert Reading(2, (wrong, missing), 2, codes=frozenset({"type", "missing"})).remedy is Remedy.RETRY
    assert Reading(500, (wrong,) * 100, 200, codes=frozenset({"type", "missing"})).remedy is Remedy.RETRY
    assert Reading(0, trouble=StoreError("", code="LOADING", remedy=Remedy.WAIT)).remedy is Remedy.WAIT


@pytest.mark.parametrize(
    ("zone", "left", "at"),
    [
        ("Europe/Berlin", 0, "2026-10-26"),
        ("America/New_York", 0, "2026-11-02"),
        ("Australia/Lord_Howe", HOUR / 2, "2026-04-06"),
        ("Asia/Shanghai", HOUR, None),
    ],
)
def test_the_week_that_ends_daylight_saving_time_has_an_hour_more(zone: str, left: float, at: str | None) -> None:
    """Loaded on a Monday at 02:00 with 7 d + 1 h, the data is gone at 02:00 a week later in autumn."""
    start = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone))
    found, when = least_left(WEEK + HOUR, islice(CronSim("0 2 * * 1", start), 53))
    assert found == left
    assert at is None or f"{when:%Y-%m-%d}" == at


def test_daily_slots_of_one_zone_without_changes() -> None:
    """Every day leaves the same TTL; a single slot is refused."""
    slots = [datetime(2026, 1, day, 2, tzinfo=UTC) for day in range(1, 5)]
    assert least_left(WEEK, slots) == (WEEK - 86400, slots[1])
    with pytest.raises(ValueError, match="empty"):
        least_left(WEEK, slots[:1])


def test_spans_are_real_ones() -> None:
    """Two moments of one zone subtract as wall clocks in Python; that must not hide the hour."""
    zone = ZoneInfo("Europe/Berlin")
    before, after = datetime(2026, 10, 25, 1, tzinfo=zone), datetime(2026, 10, 25, 4, tzinfo=zone)
    assert after - before == timedelta(hours=3)
    assert least_left(0, [before, after])[0] == -4 * HOUR
