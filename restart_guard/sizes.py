"""Sizes in bytes as the config writes them: read from text, and written for a reader."""

import re

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KB": 10**3, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?([kKMGT]i?B|B)", re.ASCII)


class Size(int):
    """A number of bytes, written as ``500kB``, ``50MB`` or ``1.5GiB``."""

    wanted = 'a size such as "50MB" or "1GiB"'

    @classmethod
    def parse(cls, text: object) -> "Size":
        """Raises ValueError for a text that is no size, or none above zero."""
        match = _SIZE.fullmatch(text) if isinstance(text, str) else None
        if match is None or match[2] not in _UNITS:
            raise ValueError(text)
        size = round(float(match[1]) * _UNITS[match[2]])
        if size < 1:
            raise ValueError(text)
        return cls(size)


def size(number: float) -> str:
    """A number of bytes for a reader: ``812MB``."""
    for unit in ("TB", "GB", "MB", "kB"):
        if number >= _UNITS[unit]:
            return f"{number / _UNITS[unit]:.3g}{unit}"
    return f"{number:.0f}B"
