"""When a person is told, and when to try again."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restart_guard.backoff import delay
from restart_guard.journal.incident import Incident, Notice, advance

START = datetime(2026, 11, 23, 2, tzinfo=UTC)
FOUR_HOURS = 4 * 3600


def step(
    incident: Incident | None, *, ok: bool, hours: float, can_notify: bool = True
) -> tuple[Incident | None, Notice]:
    now = START + timedelta(hours=hours)
    fresh = Incident("id1", now, 0, 0, None)
    return advance(incident, ok=ok, now=now, repeat_interval_s=FOUR_HOURS, can_notify=can_notify, fresh=fresh)


def test_one_alert_then_a_repeat_then_one_recovery() -> None:
    """Failures within the interval are silent; the recovery counts them all and is told once."""
    incident, notice = step(None, ok=False, hours=0)
    assert notice is Notice.FIRST
    incident, notice = step(incident, ok=False, hours=3.9)
    assert notice is Notice.NONE
    incident, notice = step(incident, ok=False, hours=4)
    assert notice is Notice.REPEAT
    assert incident == Incident("id1", START, 3, 2, START + timedelta(hours=4))
    incident, notice = step(incident, ok=True, hours=5)
    assert (incident, notice) == (None, Notice.RECOVERED)
    assert step(None, ok=True, hours=6) == (None, Notice.NONE)


def test_nobody_to_tell_means_no_recovery_message_either() -> None:
    """A channel that is configured later gets the alert at the next failure, not a recovery out of the blue."""
    incident, notice = step(None, ok=False, hours=0, can_notify=False)
    assert notice is Notice.NONE
    assert step(incident, ok=True, hours=1) == (None, Notice.NONE)
    assert step(incident, ok=False, hours=1)[1] is Notice.FIRST


def test_a_clock_that_was_set_back_does_not_silence_alerts() -> None:
    """A last notice in the future counts as due."""
    incident, _ = step(None, ok=False, hours=0)
    assert step(incident, ok=False, hours=-1000)[1] is Notice.REPEAT


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10 * 3600)), max_size=40))
def test_each_incident_is_told_once_at_its_start_and_once_at_its_end(outcomes: list[tuple[bool, int]]) -> None:
    """Over any sequence of outcomes: first, repeats, recovered, in this order, and never two repeats too near."""
    incident: Incident | None = None
    now = START
    told: list[tuple[Notice, datetime]] = []
    for ok, gap in outcomes:
        now += timedelta(seconds=gap)
        fresh = Incident("x", now, 0, 0, None)
        incident, notice = advance(incident, ok=ok, now=now, repeat_interval_s=FOUR_HOURS, can_notify=True, fresh=fresh)
        if notice is not Notice.NONE:
            told.append((notice, now))
    for (before, at), (after, then) in itertools.pairwise(told):
        assert (before is Notice.RECOVERED) == (after is Notice.FIRST)
        if after is Notice.REPEAT:
            assert then - at >= timedelta(seconds=FOUR_HOURS)
    assert (incident is not None) == bool(told and told[-1][0] is not Notice.RECOVERED)


@pytest.mark.parametrize(("tries", "seconds"), [(1, 30), (2, 60), (3, 120), (7, 1920), (8, 3600), (10_000, 3600)])
def test_the_delay_doubles_up_to_its_cap(tries: int, seconds: float) -> None:
    """first, 2 × first, 4 × first, and never more than the maximum."""
    assert delay(tries, first_s=30, cap_s=3600) == seconds
