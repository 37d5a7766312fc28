"""A group of hosts on one machine, and the record that their targets leave: who ran when."""

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import Guard
from tests.support.servers import RedisServer, wait_until

# CLOCK_MONOTONIC is one for all of them; an append of one short line is one write.
STAMPER = """\
import os, sys, time
def stamp():
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    token, launch = (os.environ.get(f"RESTART_GUARD_{name}", "-") for name in ("FENCING_TOKEN", "LAUNCH"))
    while True:
        os.write(file, f"{time.monotonic():.4f} {sys.argv[2]} {token} {os.getpid()} {launch}\\n".encode())
        time.sleep(0.01)
"""
SIMPLE = STAMPER + "stamp()\n"


class Stamp(NamedTuple):
    """That a target ran: when (CLOCK_MONOTONIC, seconds), on which host, by which launch."""

    at: float
    host: str
    token: str
    pid: int
    launch: str


class Host:
    """One of the group: its own folder, config and state."""

    def __init__(self, group: "Group", name: str) -> None:
        self.name = name
        folder = group.folder / name
        folder.mkdir()
        (folder / "run.py").write_text(group.program)
        self.guard = Guard(folder)
        self.before, redis_section = group.place(name) if group.place is not None else ([], "")
        self.target = (
            f'[targets.web]\nprogram = "run.py"\ncommand = "{{python}} {{program}} {group.stamps} {name}"\n'
            'min_uptime = "100ms"\nstop_timeout = "1s"\n'
        )
        self.guard.configure(
            f'{self.target}[standby]\ngroup = "g"\nnode = "{name}"\nlease = "{group.lease}s"\n'
            f"{group.config}{redis_section}"
        )
        self.environ: dict[str, str] = {}
        self.process: subprocess.Popen[str] | None = None

    def join(self, *arguments: str, output: int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [*self.before, *self.guard.command("standby", *arguments)],
            cwd=self.guard.directory,
            env=self.guard.environ | self.environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            encoding="utf-8",
        )

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    @property
    def takes_part(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def said(self) -> str:
        """The output so far, as far as nobody else has read it."""
        texts = []
        for stream in (self.process.stdout, self.process.stderr) if self.process is not None else ():
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                with suppress(BlockingIOError):
                    texts.append(os.read(stream.fileno(), 65536).decode(errors="replace"))
        return "".join(texts)

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()
            self.process = None


class Group:
    """Hosts with one lease. Left with ``end``, nothing of them runs."""

    def __init__(self, folder: Path, config: str, lease: float = 1.0, program: str = SIMPLE) -> None:
        self.folder = folder
        self.config = config
        self.lease = lease
        self.program = program
        self.stamps = folder / "stamps"
        self.hosts: dict[str, Host] = {}
        self.place: Callable[[str], tuple[list[str], str]] | None = None
        self._lines: list[Stamp] = []
        self._read = 0

    def add(self, name: str) -> Host:
        self.hosts[name] = Host(self, name)
        return self.hosts[name]

    def start(self, *names: str) -> "Group":
        for name in names:
            self.add(name).join()
        return self

    def lines(self) -> list[Stamp]:
        """All stamps so far; only what is new is read."""
        if self.stamps.exists():
            with self.stamps.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            for row in map(str.split, whole.decode().splitlines()):
                self._lines.append(Stamp(float(row[0]), row[1], row[2], int(row[3]), row[4]))
        return self._lines

    def last(self) -> Stamp | None:
        return next(reversed(self.lines()), None)

    def leader(self) -> Host:
        """Whose target ran last, once there is one."""
        last = wait_until(self.last, what="a leader", timeout=20 + 5 * self.lease)
        return self.hosts[last.host]

    def wait_for_heir(self, server: RedisServer) -> None:
        """Until another host has watched for a lease, without being starved, so that it can be handed over to."""
        with server.client() as client:
            wait_until(lambda: client.keys("*heir*"), what="a host that stands ready")

    def wait_for_another(self, than: Host, timeout: float = 20.0) -> Host:
        begun = len(self.lines())
        try:
            wait_until(
                lambda: any(one.host != than.name for one in self.lines()[begun:]),
                what=f"another leader than {than.name}",
                timeout=timeout + 5 * self.lease,
            )
        except AssertionError as error:
            texts = [
                f"{host.name}, {'there' if host.takes_part else 'gone'}: {host.said()}" for host in self.hosts.values()
            ]
            raise AssertionError("\n".join([str(error), *texts])) from error
        self.wait_for_more(30)  # should the first run on, its stamps are among these
        return self.leader()

    def wait_for_more(self, stamps: int, timeout: float = 30.0) -> None:
        """Until somebody's target has run on for a while."""
        begun = len(self.lines())
        wait_until(lambda: len(self.lines()) > begun + stamps, what="a leader that goes on", timeout=timeout)

    def taken_over_after(self, moment: float, by: Host) -> float:
        """Seconds from a moment until the host's target ran."""
        return next(one.at for one in self.lines() if one.host == by.name and one.at > moment) - moment

    def check(self, since: int = 0) -> None:
        """Never two at once: the record of one launch ends before that of the next begins; from this stamp on."""
        runs: list[tuple[str, str]] = []
        for one in sorted(self.lines()[since:]):
            if (one.host, one.launch) not in runs[-1:]:
                runs.append((one.host, one.launch))
        assert len(runs) == len(set(runs)), f"two ran at once: {runs}"

    def others(self, than: Host) -> Sequence[Host]:
        return [host for host in self.hosts.values() if host is not than]

    def end(self) -> None:
        for host in self.hosts.values():
            if host.takes_part:
                host.signal(signal.SIGCONT)
            host.end()
            host.guard("kill", "web")
        for pid in {one.pid for one in self.lines()}:
            try:
                if str(self.stamps).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                continue


def of(found: Any) -> Any:
    """The JSON of a command that went well."""
    assert found.code == 0, found
    return found.json
