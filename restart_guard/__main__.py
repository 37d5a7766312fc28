"""``python -m restart_guard`` and the console script."""

import sys

from restart_guard.cli import run


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
