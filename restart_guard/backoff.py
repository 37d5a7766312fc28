"""When to try again: exponential delays with a maximum. Pure: no clock, no sleep."""


def delay(tries: int, *, first_s: float, cap_s: float) -> float:
    """Seconds to wait after the given number of failed tries (at least one): first, 2 × first, 4 × first … cap."""
    return float(min(cap_s, first_s * 2 ** min(tries - 1, 60)))
