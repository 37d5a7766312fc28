"""What the page and the metrics cost a tick. By hand: python -m tests.benchmarks.reports

A config with 50 targets that run, 20 checks and a year of history: an idle tick without a page and metrics, and with
both, twenty times each in turn. Wanted: at most 1.5 x, and a page of at most 150 kB.
"""

import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.conftest import Guard
from tests.reports.conftest import config_of, fill

ROUNDS = 20
MORE = '[page]\n[metrics]\ntextfile = "rg.prom"\n'


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        guard = Guard(Path(folder))
        for number in range(50):
            (guard.directory / f"t{number}.sh").write_text("#!/bin/sh\nexec sleep 1000\n")
            (guard.directory / f"t{number}.sh").chmod(0o755)
        config = config_of(guard.directory, targets=50, checks=20, more=MORE)
        plain = guard.config.read_text().replace(MORE, "")
        (guard.directory / "plain.toml").write_text(plain)
        guard("start")
        try:
            fill(config, random.Random(17))
            took: dict[str, list[float]] = {"plain.toml": [], "config.toml": []}
            for _ in range(ROUNDS):
                for name, times in took.items():
                    command = [*guard.command()[:-1], str(guard.directory / name), "restart"]
                    begun = time.perf_counter()
                    subprocess.run(command, cwd=guard.directory, env=guard.environ, check=True)
                    times.append(time.perf_counter() - begun)
            without, both = (statistics.median(times) for times in took.values())
            print(f"idle tick, 50 targets   {without * 1000:6.1f} ms   1.00 x")
            print(f"with page and metrics   {both * 1000:6.1f} ms   {both / without:.2f} x")
            print(f"the page                {(guard.state / 'page.html').stat().st_size / 1000:6.1f} kB")
        finally:
            guard("stop", "--force", "--timeout", "0s")


if __name__ == "__main__":
    main()
