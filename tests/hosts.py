"""A group of hosts on one machine, and the record that their targets leave: who ran when."""

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from tests.conftest import Guard
from tests.servers import find_program, wait_until

# CLOCK_MONOTONIC is one for all of them; an append of one short line is one write.
STAMPER = """\
import os, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
token = os.environ.get("RESTART_GUARD_FENCING_TOKEN", "-")
while True:
    os.write(file, f"{time.monotonic():.4f} {sys.argv[2]} {token} {os.getpid()}\\n".encode())
    time.sleep(0.01)
"""


class Host:
    """One of the group: its own folder, config and state."""

    def __init__(self, group: "Group", name: str) -> None:
        self.name = name
        folder = group.folder / name
        folder.mkdir()
        (folder / "run.py").write_text(STAMPER)
        self.guard = Guard(folder)
        self.before, redis_section = group.place(name) if group.place is not None else ([], "")
        self.guard.configure(
            f'[targets.web]\nprogram = "run.py"\ncommand = "{{python}} {{program}} {group.stamps} {name}"\n'
            'min_uptime = "100ms"\nstop_timeout = "1s"\n[standby]\ngroup = "g"\n'
            f'node = "{name}"\nlease = "{group.lease}s"\n{group.config}{redis_section}'
        )
        self.process: subprocess.Popen[str] | None = None

    def join(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*self.before, *self.guard.command("standby", *arguments)],
            cwd=self.guard.directory,
            env=self.guard.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            assert self.process.stderr is not None
            self.process.stdout.close()
            self.process.stderr.close()
            self.process = None


class Group:
    """Hosts with one lease. Left with ``end``, nothing of them runs."""

    def __init__(self, folder: Path, config: str, lease: float = 1.0) -> None:
        self.folder = folder
        self.config = config
        self.lease = lease
        self.stamps = folder / "stamps"
        self.hosts: dict[str, Host] = {}
        self.place: Callable[[str], tuple[list[str], str]] | None = None

    def start(self, *names: str) -> "Group":
        for name in names:
            self.hosts[name] = Host(self, name)
            self.hosts[name].join()
        return self

    def lines(self) -> list[tuple[float, str, str, int]]:
        if not self.stamps.exists():
            return []
        rows = [line.split() for line in self.stamps.read_text().splitlines()]
        return [(float(row[0]), row[1], row[2], int(row[3])) for row in rows if len(row) == 4]

    def leader(self) -> Host:
        """Whose target ran last, once there is one."""
        wait_until(self.lines, what="a leader", timeout=20 + 5 * self.lease)
        return self.hosts[self.lines()[-1][1]]

    def wait_for_another(self, than: Host, timeout: float = 20.0) -> Host:
        begun = len(self.lines())
        wait_until(
            lambda: any(name != than.name for _, name, _, _ in self.lines()[begun:]),
            what=f"another leader than {than.name}",
            timeout=timeout + 5 * self.lease,
        )
        return self.leader()

    def taken_over_after(self, moment: float, by: Host) -> float:
        """Seconds from a moment until the host's target ran."""
        return next(at for at, name, _, _ in self.lines() if name == by.name and at > moment) - moment

    def check(self) -> None:
        """Never two hosts' targets at once: the record of one host ends before that of the next begins."""
        lines = sorted(self.lines())
        runs: list[tuple[str, int]] = []
        for _, name, _, pid in lines:
            if (name, pid) not in runs[-1:]:
                runs.append((name, pid))
        assert len(runs) == len(set(runs)), f"two ran at once: {runs}"

    def others(self, than: Host) -> Sequence[Host]:
        return [host for host in self.hosts.values() if host is not than]

    def end(self) -> None:
        for host in self.hosts.values():
            if host.process is not None and host.process.poll() is None:
                host.signal(signal.SIGCONT)
            host.end()
            host.guard("kill", "web")
        for _, _, _, pid in self.lines():
            try:
                if str(self.stamps).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                continue


class Net:
    """Network namespaces of the test's own: one for Redis, and one for each host, with a link between the two."""

    def __init__(self, *names: str) -> None:
        mark = uuid.uuid4().hex[:6]
        self.server = f"rg{mark}-redis"
        self.hosts = {name: f"rg{mark}-{name}" for name in names}
        self.address = {name: f"10.199.{number}" for number, name in enumerate(names, 1)}
        self._redis: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for space in (self.server, *self.hosts.values()):
            ip("netns", "add", space)
        for name, space in self.hosts.items():
            ours, theirs = f"s{space[-8:]}", f"h{space[-8:]}"
            ip("link", "add", ours, "netns", self.server, "type", "veth", "peer", "name", theirs, "netns", space)
            for where, link, end in ((self.server, ours, 1), (space, theirs, 2)):
                ip("-n", where, "address", "add", f"{self.address[name]}.{end}/24", "dev", link)
                ip("-n", where, "link", "set", link, "up")
        command = ["ip", "netns", "exec", self.server, "redis-server", "--protected-mode", "no", "--save", ""]
        self._redis = subprocess.Popen([*command, "--port", "6379"], stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        if self._redis is not None:
            self._redis.kill()
            self._redis.wait()
        for space in (self.server, *self.hosts.values()):
            ip("netns", "delete", space)

    def place(self, name: str) -> tuple[list[str], str]:
        """What stands before a host's command, and where it finds Redis."""
        before = ["ip", "netns", "exec", self.hosts[name]]
        return before, f'[redis]\nurl = "redis://{self.address[name]}.1:6379/0"\n'

    def cut(self, name: str) -> None:
        ip("-n", self.hosts[name], "link", "set", f"h{self.hosts[name][-8:]}", "down")

    def heal(self, name: str) -> None:
        ip("-n", self.hosts[name], "link", "set", f"h{self.hosts[name][-8:]}", "up")


def ip(*words: str) -> None:
    subprocess.run([find_program("ip"), *words], check=True)


def of(found: Any) -> Any:
    """The JSON of a command that went well."""
    assert found.code == 0, found
    return found.json
