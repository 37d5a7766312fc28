"""Spans of time as the config writes them: read from text, and written for a reader."""

import re


def span(seconds: float) -> str:
    """A duration as the config writes it, to two units: ``7d1h``, ``59m58s``, ``1.5s``, ``20ms``."""
    if seconds < 0:
        return "-" + span(-seconds)
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.1f}s".replace(".0s", "s")
    whole = round(seconds)
    parts: list[tuple[int, str]] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, length)
        if count or parts:
            parts.append((count, unit))
    return "".join(f"{count}{unit}" for count, unit in parts[:2] if count)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

_DURATION = re.compile(r"(?:\d{1,12}(?:\.\d{1,6})?(?:ms|[smhdw]))+", re.ASCII)

_PART = re.compile(r"([\d.]+)(ms|[smhdw])", re.ASCII)

_LONGEST_S = 100 * 365 * 86400.0


class Duration(float):
    """A span in seconds, written as ``500ms``, ``30s``, ``5m`` or ``7d1h``."""

    wanted = 'a duration such as "30s" or "7d1h"'

    @classmethod
    def parse(cls, text: object) -> "Duration":
        """Raises ValueError when the text is no duration or longer than a century."""
        if not isinstance(text, str) or not _DURATION.fullmatch(text):
            raise ValueError(text)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        if seconds > _LONGEST_S:
            raise ValueError(text)
        return cls(seconds)
