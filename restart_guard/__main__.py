"""``python -m restart_guard`` and the console script."""

import os
import sys

from restart_guard.cli import cli, run


def main() -> None:
    if "_RESTART_GUARD_COMPLETE" in os.environ:
        cli.main(prog_name="restart-guard")  # click's own answer to a shell that completes
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
