"""When to try again: capped exponential delays. Pure: no clock, no sleep."""

from datetime import datetime, timedelta
from typing import NamedTuple

from restart_guard.settings import Backoff

DELIVERY_FIRST_S = 30.0
DELIVERY_CAP_S = 3600.0


def delay(tries: int, *, first_s: float, cap_s: float) -> float:
    """Seconds to wait after the given number of failed tries (at least one): first, 2 × first, 4 × first … cap."""
    return float(min(cap_s, first_s * 2 ** min(tries - 1, 60)))


def is_due(next_try: datetime | None, now: datetime, *, cap_s: float) -> bool:
    """Whether a stored moment has come. One further away than any delay means that the clock was set back."""
    return next_try is None or next_try <= now or next_try - now > timedelta(seconds=cap_s)


KEEPS_DYING = 3
"""Relaunches in a row after which a person is told."""


class Crashes(NamedTuple):
    """Relaunches of a target in a row, after none of which it was seen alive at the age of ``reset_after``.

    ``next_at`` is the moment from which it may be launched again, in seconds since boot; 0 as long as it is well.
    """

    in_a_row: int = 0
    next_at: float = 0.0


def launched(before: Crashes, backoff: Backoff, *, by_hand: bool, at: float) -> Crashes:
    """The crashes after a launch at ``at``. One by hand begins anew: somebody has looked.

    The delay runs from the launch and not from the death, whose moment a tick does not know: what died at once waits,
    what has run for longer than its delay is launched at once.
    """
    if by_hand:
        return Crashes()
    count = before.in_a_row + 1
    return Crashes(count, at + delay(count, first_s=backoff.base, cap_s=backoff.max))


def died(crashes: Crashes, backoff: Backoff, *, at: float) -> Crashes:
    """The crashes once a death is noticed: the first waits for ``first``, which is no time unless so configured."""
    if crashes.in_a_row == 0 and crashes.next_at == 0 and backoff.first > 0:
        return crashes._replace(next_at=at + backoff.first)
    return crashes


def next_try_s(crashes: Crashes, backoff: Backoff, *, now: float) -> float:
    """Seconds until a dead target may be launched; 0 when it may at once.

    A moment further away than the longest delay is another boot's, or damage.
    """
    wait = crashes.next_at - now
    return wait if 0 < wait <= max(backoff.max, backoff.first) else 0.0
