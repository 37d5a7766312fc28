"""How soon a killed target is back, and what an idle watch costs. By hand: python -m tests.benchmarks.relaunch

From ``kill -9`` to the first instructions of the new instance, as the instance itself reads the clock: one target, and
50 that are killed at once until the last is back. Side by side with

- floor: a bare loop of Python, poll on pidfds and posix_spawn, that relaunches its own children (ratio 1)
- runit, daemontools, supervisord: where they are installed

Wanted: one target at most 1.5 times the floor, 50 at most 2 times. The first kill after ``start`` is told apart: those
targets are children of init, and where init does not reap at once a relaunch costs a look at the process table.

Then 60 s without an event beside 50 targets. Wanted: at most 20 MiB (PSS), 10 ms of CPU and 60 wakeups a minute.
Takes about two minutes and a C compiler.
"""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

KILLS = 20
MANY = 50
KILLS_OF_MANY = 5
PAUSE_S = 1.2  # runsv and supervise hold back what has run for less than a second
SETTLE_S = 3.0
IDLE_S = 60.0
PATIENCE_S = 30.0
_PROGRAM = r"""
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    char line[64];
    int length = snprintf(line, sizeof line, "%d %lld\n", (int) getpid(), now.tv_sec * 1000000000LL + now.tv_nsec);
    if (write(1, line, length) != length) return 1;
    for (;;) pause();
}
"""
_FLOOR = """
import os, select, sys
poll = select.poll()
running = {}
def launch(program):
    output = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, program + ".log", output, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    pid = os.posix_spawn(program, [program], os.environ, file_actions=actions, setsid=True)
    fd = os.pidfd_open(pid)
    running[fd] = pid, program
    poll.register(fd, select.POLLIN)
for program in sys.argv[1:]:
    launch(program)
while True:
    for fd, _ in poll.poll():
        pid, program = running.pop(fd)
        poll.unregister(fd)
        os.close(fd)
        os.waitpid(pid, 0)
        launch(program)
"""


def compile_program(directory: Path) -> Path:
    """A program of next to no start-up time that writes its pid and the monotonic clock to stdout, and pauses."""
    cc = shutil.which("cc")
    if cc is None:
        sys.exit("There is no C compiler (cc) to build the measured program with: apt-get install gcc libc6-dev")
    program = directory / "program"
    program.with_suffix(".c").write_text(_PROGRAM)
    subprocess.run([cc, "-O2", "-static", "-o", program, program.with_suffix(".c")], check=True)
    return program


def plain_environment() -> dict[str, str]:
    """Ours, but bytecode is cached as it is for a user."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def guard_command(config: Path) -> list[str]:
    return [str(Path(sys.executable).with_name("restart-guard")), "-c", str(config)]


def clean_up_on_sigterm() -> None:
    """So that a benchmark under timeout(1) leaves nothing behind either."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("terminated"))


def end_programs(directory: Path) -> None:
    """Kill whatever runs an executable of a directory of ours, and wait until it has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        left = [
            int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal() and _is_in(entry, directory)
        ]
        if not left:
            return
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _is_in(process: Path, directory: Path) -> bool:
    try:
        return (process / "exe").readlink().is_relative_to(directory)
    except OSError:
        return False


class Fleet:
    """The targets of one way: each a name of its own for the program, and beside it the log that it writes to."""

    def __init__(self, directory: Path, program: Path, count: int) -> None:
        directory.mkdir()
        self.directory = directory
        self.programs = [directory / f"t{number}" for number in range(count)]
        for one in self.programs:
            one.hardlink_to(program)

    def instances(self) -> list[tuple[int, int]]:
        """Pid and moment of start in ns of the latest instance of each; (0, 0) before the first."""
        found = []
        for one in self.programs:
            with suppress(FileNotFoundError):
                lines = Path(f"{one}.log").read_text().splitlines()
                pid, started = lines[-1].split() if lines else ("0", "0")
                found.append((int(pid), int(started)))
        return found + [(0, 0)] * (len(self.programs) - len(found))

    def wait_since(self, moment: int) -> int:
        """Wait until each has an instance that is younger than this; when the last of them began."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            # Long waits between the looks, which would else compete with what is measured.
            time.sleep(0.1)
            starts = [started for _, started in self.instances()]
            if min(starts) > moment:
                return max(starts)
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all of {self.directory} came back")

    def kill(self) -> float:
        """Kill all at once; milliseconds until the last is back."""
        pids = [pid for pid, _ in self.instances()]
        begun = time.monotonic_ns()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return (self.wait_since(begun) - begun) / 1e6


@contextmanager
def supervisors(commands: Sequence[tuple[Sequence[str], Path]]) -> Iterator[list[int]]:
    """Run commands, each with its output in a file."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        for command, output in commands:
            with output.open("ab") as file:
                process = subprocess.Popen(
                    command, env=plain_environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
                )
            children.append(process)
        yield [child.pid for child in children]
    finally:
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextmanager
def floor(fleet: Fleet) -> Iterator[list[int]]:
    command = [sys.executable, "-c", _FLOOR, *map(str, fleet.programs)]
    with supervisors([(command, fleet.directory / "floor.log")]) as pids:
        yield pids


@contextmanager
def restart_guard(fleet: Fleet) -> Iterator[list[int]]:
    config = fleet.directory / "config.toml"
    lines = [f'state_dir = "{fleet.directory}/state"']
    for one in fleet.programs:
        lines += [f"[targets.{one.name}]", f'program = "{one}"', 'command = "{program}"', f'log_file = "{one}.log"']
        lines += ['restart_backoff = { base = "1ms", max = "1ms", reset_after = "1ms" }']
    config.write_text("\n".join(lines) + "\n")
    config.chmod(0o600)
    guard = guard_command(config)
    try:
        subprocess.run([*guard, "-q", "start"], env=plain_environment(), check=True)
        with supervisors([([*guard, "watch"], fleet.directory / "watch.log")]) as pids:
            _wait_for_pidfds(pids[0], len(fleet.programs))
            yield pids
    finally:
        stop = [*guard, "-q", "stop", "--force", "--timeout", "1s"]
        subprocess.run(stop, env=plain_environment(), check=False)


def _wait_for_pidfds(pid: int, count: int) -> None:
    """Wait until the watch watches them all."""
    deadline = time.monotonic() + PATIENCE_S
    found = 0
    while found < count:
        if time.monotonic() > deadline:
            raise TimeoutError("the watch does not watch")
        time.sleep(0.05)
        links = []
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                links.append(str(entry.readlink()))
        found = sum("pidfd" in link for link in links)


def _run_directories(fleet: Fleet, command: str) -> AbstractContextManager[list[int]]:
    """A supervisor a target, with a directory whose ``run`` is the program itself: no shell stands between."""
    commands = []
    for one in fleet.programs:
        service = fleet.directory / f"{one.name}.service"
        service.mkdir()
        (service / "run").hardlink_to(one)
        commands.append(([command, str(service)], Path(f"{one}.log")))
    return supervisors(commands)


@contextmanager
def runit(fleet: Fleet) -> Iterator[list[int]]:
    with _run_directories(fleet, "runsv") as pids:
        yield pids


@contextmanager
def daemontools(fleet: Fleet) -> Iterator[list[int]]:
    with _run_directories(fleet, "supervise") as pids:
        yield pids


@contextmanager
def supervisord(fleet: Fleet) -> Iterator[list[int]]:
    directory = fleet.directory
    lines = ["[supervisord]", "nodaemon=true", f"logfile={directory}/own.log", f"pidfile={directory}/own.pid"]
    lines += [f"childlogdir={directory}"]
    for one in fleet.programs:
        lines += [f"[program:{one.name}]", f"command={one}", "autorestart=true", "startsecs=0"]
        lines += [f"stdout_logfile={one}.log", "stdout_logfile_maxbytes=0", "redirect_stderr=true"]
    config = directory / "supervisord.conf"
    config.write_text("\n".join(lines) + "\n")
    with supervisors([(["supervisord", "-c", str(config)], directory / "supervisord.log")]) as pids:
        yield pids


Way = Callable[[Fleet], AbstractContextManager[list[int]]]
_OTHERS: dict[str, tuple[Way, str]] = {
    "runit": (runit, "runsv"),
    "daemontools": (daemontools, "supervise"),
    "supervisord": (supervisord, "supervisord"),
}


class Load(NamedTuple):
    """What processes have used; ``wakeups`` are those of the threads that live."""

    pss_mib: float
    cpu_ms: float
    wakeups: int


def load(pids: Sequence[int]) -> Load:
    pss_kib = sum(_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in pids)
    # The clock of clock_getcpuclockid(3) is exact and holds the threads that have ended, which task/*/schedstat loses.
    cpu_ns = sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in pids)
    threads = [thread / "status" for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
    return Load(pss_kib / 1024, cpu_ns / 1e6, sum(_field(path, "voluntary_ctxt_switches:") for path in threads))


def _field(path: Path, name: str) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
        return next((int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name)), 0)
    return 0


@contextmanager
def running(
    ways: dict[str, Way], directory: Path, program: Path, count: int
) -> Iterator[tuple[dict[str, Fleet], dict[str, list[int]]]]:
    """All ways side by side, each with so many targets that run; the pids are those of what supervises."""
    with ExitStack() as stack:
        stack.callback(end_programs, directory)
        fleets, pids = {}, {}
        for name, way in ways.items():
            fleets[name] = Fleet(directory / f"{name}-{count}", program, count)
            pids[name] = stack.enter_context(way(fleets[name]))
            fleets[name].wait_since(0)
        yield fleets, pids


def kill_in_turn(fleets: dict[str, Fleet], rounds: int) -> dict[str, list[float]]:
    """Interleaved, so that the machine's moods strike all alike. The first of each is the one that is told apart."""
    times: dict[str, list[float]] = {name: [] for name in fleets}
    for _ in range(1 + rounds):
        for name, fleet in fleets.items():
            times[name].append(fleet.kill())
        time.sleep(PAUSE_S)
    return times


def report(title: str, times: dict[str, list[float]], wanted: float) -> None:
    print(f"{title}; wanted: restart-guard at most {wanted} x floor")
    print(f"  {'':<14}{'median':>10}{'p95':>10}{'first':>10}")
    yardstick = statistics.median(times["floor"][1:])
    for name, (first, *rest) in times.items():
        median = statistics.median(rest)
        p95 = statistics.quantiles(rest, n=20, method="inclusive")[-1]
        print(f"  {name:<14}{median:7.2f} ms{p95:7.2f} ms{first:7.2f} ms {median / yardstick:7.2f} x floor", flush=True)


def measure_idle(pids: dict[str, list[int]]) -> None:
    time.sleep(SETTLE_S)
    before = {name: load(found) for name, found in pids.items()}
    time.sleep(IDLE_S)
    minutes = IDLE_S / 60
    print(f"idle beside {MANY} targets, a minute; wanted: at most 20 MiB, 10 ms, 60 wakeups")
    for name, found in pids.items():
        now = load(found)
        cpu_ms = (now.cpu_ms - before[name].cpu_ms) / minutes
        wakeups = (now.wakeups - before[name].wakeups) / minutes
        print(f"  {name:<14}{now.pss_mib:7.1f} MiB PSS {cpu_ms:8.2f} ms CPU {wakeups:7.0f} wakeups")


def main() -> None:
    clean_up_on_sigterm()
    ways: dict[str, Way] = {"floor": floor, "restart-guard": restart_guard}
    for name, (way, command) in _OTHERS.items():
        if shutil.which(command):
            ways[name] = way
        else:
            print(f"{name} is not installed (no {command}): left out")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name).resolve()
        program = compile_program(directory)
        with running(ways, directory, program, 1) as (fleets, _):
            report(f"one target, {KILLS} kills", kill_in_turn(fleets, KILLS), 1.5)
        with running(ways, directory, program, MANY) as (fleets, pids):
            times = kill_in_turn(fleets, KILLS_OF_MANY)
            report(f"{MANY} targets killed at once, {KILLS_OF_MANY} times, until the last is back", times, 2)
            measure_idle(pids)


if __name__ == "__main__":
    main()
