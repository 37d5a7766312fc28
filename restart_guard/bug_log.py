"""The log of bugs in restart-guard itself: an operator gets a sentence, the traceback goes here."""

import sys
from collections.abc import Callable
from pathlib import Path

from restart_guard import __version__, clock


def write(state_dir: Path, error: Exception, redact: Callable[[str], str]) -> str:
    """Log a bug's traceback in the state directory. Returns the sentence about it."""
    log = state_dir / "restart-guard.log"
    # Only a bug needs it.
    from traceback import format_exception

    text = redact("".join(format_exception(error)))
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{clock.stamp(clock.now())} restart-guard {__version__} {sys.argv[1:2]}\n{text}\n")
        where = f"the traceback is in {log}"
    except OSError:
        where = f"and it could not be logged:\n{text}"
    return f"This is a bug in restart-guard ({type(error).__name__}); {where}"
