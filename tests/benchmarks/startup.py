"""What a start costs, as ratios to a bare interpreter. By hand: python -m tests.benchmarks.startup

Medians of interleaved rounds of ``--help``, ``status`` and an idle tick (``restart`` with one running target) beside
``python -c pass``. Wanted: at most 5.5 times.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 25
# msgspec imports typing_extensions where it is installed: with the tests, but not on an operator's machine.
AS_INSTALLED = "import sys; sys.modules['typing_extensions'] = None; from restart_guard.__main__ import main; main()"


def main() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "sleeper.py").write_text("import time\ntime.sleep(600)\n")
        config = directory / "config.toml"
        config.write_text(f'state_dir = "{directory}/state"\n[targets.sleeper]\nprogram = "sleeper.py"\n')
        config.chmod(0o600)
        guard = [sys.executable, "-c", AS_INSTALLED, "-c", str(config)]
        subprocess.run([*guard, "-q", "start"], env=environ, check=True)
        try:
            ways = {
                "python -c pass": [sys.executable, "-c", "pass"],
                "import click": [sys.executable, "-c", "import click"],
                "--help": [*guard, "--help"],
                "status": [*guard, "status"],
                "idle tick": [*guard, "restart"],
            }
            times: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(ROUNDS):
                for way, command in ways.items():
                    begun = time.perf_counter()
                    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
                    times[way].append(time.perf_counter() - begun)
        finally:
            subprocess.run([*guard, "-q", "stop"], env=environ, check=True)
    bare = statistics.median(times["python -c pass"])
    for way, found in times.items():
        median = statistics.median(found)
        print(f"{way:<15} {median * 1000:7.1f} ms  {median / bare:5.2f} x python -c pass")


if __name__ == "__main__":
    main()
