"""Questions about paths that others may change while we look, or that we may not look at."""

import os
from pathlib import Path

_TRIES = 10

# Path.exists() and its kin raise PermissionError before Python 3.14 where a folder may not be searched.
exists, is_dir, is_file = os.path.exists, os.path.isdir, os.path.isfile


def home() -> Path:
    """The user's home. In a container a user may have neither HOME nor an entry in passwd."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def real(path: Path | str) -> str:
    """The path without links, as ``os.path.realpath`` gives it; that raises OSError if a link is replaced meanwhile."""
    for _ in range(_TRIES):
        try:
            return os.path.realpath(path)
        except OSError:
            continue
    return os.path.abspath(path)  # noqa: PTH100 (Path.absolute leaves ..)
