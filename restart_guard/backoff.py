"""When to try again: exponential delays with a maximum. Pure: no clock, no sleep."""

from datetime import datetime, timedelta


def delay(tries: int, *, first_s: float, cap_s: float) -> float:
    """Seconds to wait after the given number of failed tries (at least one): first, 2 × first, 4 × first … cap."""
    return float(min(cap_s, first_s * 2 ** min(tries - 1, 60)))


def is_due(next_try: datetime | None, now: datetime, *, cap_s: float) -> bool:
    """Whether a stored moment has come. One further away than any delay means that the clock was set back."""
    return next_try is None or next_try <= now or next_try - now > timedelta(seconds=cap_s)
