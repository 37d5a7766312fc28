"""How commands grow with targets and with the host's processes. By hand: python -m tests.benchmarks.scale

Medians of 5 of an idle tick (``restart``), of ``status``, and of ``status`` that has to search: records and pid locks
are away, so that every target is found by its executable. With 1, 50 and 500 targets on a host of about 100, 1,000 and
5,000 processes; where strace is installed also how many /proc/PID/stat files each opens.

Wanted: a tick and a status do not grow with the host's processes, and open one stat file a target; a search opens one
a process, however many targets there are. Takes a few minutes at most: what is slow gets fewer rounds, and the table
says how many.
"""

import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.benchmarks.relaunch import (
    clean_up_on_sigterm,
    compile_program,
    end_programs,
    guard_command,
    plain_environment,
)

TARGETS = (1, 50, 500)
HOSTS = (100, 1_000, 5_000)
ROUNDS = 5
CELL_S = 8.0
TOTAL_S = 180.0
_HEADROOM = 500  # for the host's own processes and the threads of a tick


def processes() -> int:
    return sum(entry.name.isdecimal() for entry in Path("/proc").iterdir())


def room() -> tuple[int, str]:
    """How many processes there may be, and what says so."""
    limits = {name: _number(Path(f"/proc/sys/kernel/{name}")) for name in ("pid_max", "threads-max")}
    limits["ulimit -u"] = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        limits["pids.max of the cgroup"] = _number(Path(f"/sys/fs/cgroup{line.split(':', 2)[2]}/pids.max"))
    known = [(number, name) for name, number in limits.items() if number > 0]
    return min(known, default=(2**22, "nothing"))


def _number(path: Path) -> int:
    """The number in a file, -1 where there is none."""
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return -1


class Filler:
    """Children that only pause."""

    def __init__(self, program: Path) -> None:
        self._program = str(program)
        self._pids: list[int] = []

    def fill_up_to(self, count: int) -> None:
        """Start or end as many as it takes for so many processes on the host."""
        for _ in range(count - processes()):
            self._pids.append(spawn(self._program))
        self._end(min(len(self._pids), max(0, processes() - count)))

    def _end(self, count: int) -> None:
        end(self._pids[len(self._pids) - count :])
        del self._pids[len(self._pids) - count :]

    def close(self) -> None:
        self._end(len(self._pids))


def spawn(program: str) -> int:
    actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0), (os.POSIX_SPAWN_DUP2, 0, 1)]
    return os.posix_spawn(program, [program], os.environ, file_actions=actions, setsid=True)


def end(pids: Sequence[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


class Site:
    """A config with targets that run. They are started here: ``start`` would look for each among all processes."""

    def __init__(self, directory: Path, program: Path, count: int) -> None:
        directory.mkdir()
        self.directory = directory
        self._aside = directory / "aside"
        self._aside.mkdir()
        self._pids: list[int] = []
        self._programs = [directory / f"t{number}" for number in range(count)]
        lines = [f'state_dir = "{directory}/state"']
        for one in self._programs:
            one.hardlink_to(program)
            lines += [f"[targets.{one.name}]", f'program = "{one}"', 'command = "{program}"']
        config = directory / "config.toml"
        config.write_text("\n".join(lines) + "\n")
        config.chmod(0o600)
        self.guard = guard_command(config)

    def start(self) -> None:
        """One tick adopts what the pid locks name."""
        for one in self._programs:
            self._pids.append(spawn(str(one)))
            Path(f"{one}.pid").write_text(f"{self._pids[-1]}\n")
        run([*self.guard, "restart"])

    def close(self) -> None:
        for one in self._programs:  # first, so that nobody's tick brings them back
            Path(f"{one}.pid").unlink(missing_ok=True)
        end(self._pids)

    @contextmanager
    def forgotten(self) -> Iterator[None]:
        """For a while without records and pid locks."""
        moved = [path for one in self._programs for path in (Path(f"{one}.pid"), self.directory / f".{one.name}.state")]
        for path in moved:
            path.rename(self._aside / path.name)
        try:
            yield
        finally:
            for path in moved:
                (self._aside / path.name).rename(path)

    def check(self, word: str) -> None:
        """That the measured command sees every target as it should."""
        lines = run([*self.guard, "status"]).splitlines()
        assert len(lines) == len(self._programs), lines[:3]
        assert all(f": {word}  pid " in line for line in lines), lines[:3]


def run(command: Sequence[str]) -> str:
    return subprocess.run(command, env=plain_environment(), stdout=subprocess.PIPE, text=True, check=True).stdout


def measure(command: Sequence[str]) -> list[float]:
    """Milliseconds of some rounds, fewer of what is slow."""
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < ROUNDS and (not times or time.perf_counter() - begun < CELL_S):
        started = time.perf_counter()
        run(command)
        times.append((time.perf_counter() - started) * 1000)
    return times


def stats_opened(command: Sequence[str], directory: Path) -> int | None:
    """How many /proc/PID/stat files a command opens; None without strace."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    trace = directory / "trace"
    run([strace, "-f", "-qq", "--seccomp-bpf", "-e", "trace=openat", "-o", str(trace), *command])
    return len(re.findall(r'"/proc/\d+/stat"', trace.read_text(errors="replace")))


def compare(site: Site, count: int, directory: Path) -> None:
    ways = {"tick": [*site.guard, "restart"], "status": [*site.guard, "status"]}
    site.check("running")
    for way, command in ways.items():
        tell(count, way, measure(command), stats_opened(command, directory))
    with site.forgotten():
        site.check("unguarded")
        tell(count, "search", measure(ways["status"]), stats_opened(ways["status"], directory))


def tell(count: int, way: str, times: Sequence[float], opened: int | None) -> None:
    files = "no strace" if opened is None else str(opened)
    median = statistics.median(times)
    print(f"{count:>7} {processes():>9}  {way:<8}{median:>10.1f} ms {len(times):>6} {files:>10}", flush=True)


def main() -> None:
    clean_up_on_sigterm()
    begun = time.monotonic()
    most, why = room()
    print(f"{'targets':>7} {'processes':>9}  {'':<8}{'median':>13} {'rounds':>6} {'stat files':>10}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name).resolve()
        program = compile_program(directory)
        filler = Filler(program)
        try:
            for host in HOSTS:
                for count in TARGETS:
                    if max(host, count) + _HEADROOM > most:
                        print(f"{count:>7} {host:>9}  skipped: {why} allows {most} processes")
                        continue
                    if time.monotonic() - begun > TOTAL_S:
                        print(f"{count:>7} {host:>9}  skipped: the time is up ({TOTAL_S:.0f} s)")
                        continue
                    site = Site(directory / f"{host}-{count}", program, count)
                    try:
                        site.start()
                        filler.fill_up_to(host)
                        compare(site, count, directory)
                    finally:
                        site.close()
        finally:
            filler.close()
            end_programs(directory)


if __name__ == "__main__":
    main()
