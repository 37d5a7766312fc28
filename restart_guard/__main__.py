"""``python -m restart_guard`` and the console script."""

import atexit
import gc
import os
import sys
from contextlib import suppress

gc.set_threshold(20_000)  # imports make no garbage, but many objects: to look through them is 5 % of an idle tick

from restart_guard.entry import run  # noqa: E402


def _complete_streams() -> None:
    """Open /dev/null where descriptor 0, 1 or 2 is missing (``>&-``): the first file that is opened would take its
    place, and what is written for a reader would go there."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free one: those below are there
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _use_utf8() -> None:
    """Begin anew in UTF-8 if the locale is of another encoding, such as zh_CN.GBK: everything here is UTF-8. Not by an
    environment variable, which the programs would inherit."""
    if not sys.flags.utf8_mode and sys.getfilesystemencoding() != "utf-8" and sys.executable:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606


def main() -> None:
    _complete_streams()
    _use_utf8()
    if "_RESTART_GUARD_COMPLETE" in os.environ:
        # Click's own answer to a shell that completes.
        from restart_guard.cli import cli

        cli.main(prog_name="restart-guard")
    code = run(sys.argv[1:])
    # All is written and closed by now. To take down the interpreter, module by module, is a tenth of an idle tick.
    atexit._run_exitfuncs()  # noqa: SLF001 (of whoever measures or traces us)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
