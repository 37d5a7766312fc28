"""Relaunches in a row, and how long the next one waits. Pure: no clock, no sleep."""

from typing import NamedTuple

from restart_guard.backoff import delay
from restart_guard.config.options import Backoff

KEEPS_DYING = 3
"""Relaunches in a row after which a person is told."""


class Crashes(NamedTuple):
    """Relaunches of a target in a row, after none of which it stayed alive for ``reset_after``.

    ``next_at`` is the moment from which it may be launched again, in seconds since boot; 0 while it is well.
    """

    in_a_row: int = 0
    next_at: float = 0.0


class Death(NamedTuple):
    """How a program has ended: its exit ``status``, the negative number of a signal, or None where nobody can know it.

    ``lived_s`` are the seconds from its start to its end or, if that was not seen, at most so many. ``at`` is when that
    was, in seconds since 1970; 0 if it was not seen.
    """

    status: int | None
    lived_s: float
    is_seen: bool
    at: float = 0.0


def launched(before: Crashes, backoff: Backoff, *, by_hand: bool, at: float) -> Crashes:
    """The crashes after a launch at ``at``. A launch by hand resets them: a person has looked.

    The delay runs from the launch and not from the death, whose moment a tick does not know: a program that died at
    once waits, one that ran for longer than its delay is launched at once.
    """
    if by_hand:
        return Crashes()
    count = before.in_a_row + 1
    return Crashes(count, at + delay(count, first_s=backoff.base, cap_s=backoff.max))


def died(crashes: Crashes, backoff: Backoff, *, at: float) -> Crashes:
    """The crashes once a death is noticed: the first death waits for ``first``, which is 0 by default."""
    if crashes.in_a_row == 0 and crashes.next_at == 0 and backoff.first > 0:
        return crashes._replace(next_at=at + backoff.first)
    return crashes


def next_try_s(crashes: Crashes, backoff: Backoff, *, now: float) -> float:
    """Seconds until a dead target may be launched; 0 if it may be launched now.

    A moment further away than the longest delay belongs to another boot, or is damaged.
    """
    wait = crashes.next_at - now
    return wait if 0 < wait <= max(backoff.max, backoff.first) else 0.0
