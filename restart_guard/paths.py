"""Paths that others may change while we look."""

import os
from pathlib import Path

_TRIES = 10


def real(path: Path | str) -> str:
    """The path without links, as ``os.path.realpath`` gives it; that raises OSError if a link is replaced meanwhile."""
    for _ in range(_TRIES):
        try:
            return os.path.realpath(path)
        except OSError:
            continue
    return os.path.abspath(path)  # noqa: PTH100 (Path.absolute leaves ..)
