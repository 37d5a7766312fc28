"""A program to guard, in a directory of the test's own."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restart_guard.host import process_table
from tests.support.servers import wait_until

if TYPE_CHECKING:
    from tests.conftest import Guard

PROGRAMS = Path(__file__).parent / "programs"


def kill_dead(pid: int) -> None:
    """kill -9, until it is dead: on a busy machine a signal takes its time."""
    os.kill(pid, signal.SIGKILL)

    def is_dead() -> bool:
        facts = process_table.facts(pid)
        return facts is None or facts.dead

    wait_until(is_dead, what=f"the end of {pid}")


class Service:
    """A guarded copy of tests/support/programs/service.py."""

    def __init__(self, guard: "Guard", name: str = "web") -> None:
        self.guard = guard
        self.name = name
        self.program = guard.directory / f"server {name} 服务" / "service.py"
        self.program.parent.mkdir()
        shutil.copy(PROGRAMS / "service.py", self.program)
        self.lock = Path(f"{self.program}.pid")
        self.log = guard.directory / f"logs/{name}.log"

    def section(self, arguments: str = "", options: str = "", min_uptime: str = "100ms") -> str:
        return (
            f'[targets.{self.name}]\nprogram = "{self.program}"\ncommand = "{{python}} {{program}} {arguments}"\n'
            f'log_file = "{self.log}"\nmin_uptime = "{min_uptime}"\n{options}\n'
        )

    def configure(self, arguments: str = "", options: str = "", min_uptime: str = "100ms") -> "Service":
        self.guard.configure(self.section(arguments, options, min_uptime))
        return self

    def write(self, source: str) -> "Service":
        """Another program in its place."""
        self.program.write_text(source, encoding="utf-8")
        return self

    def pids(self) -> list[int]:
        """Every living process that runs the program."""
        found = []
        for one in process_table.everybody():
            if one.dead:
                continue
            try:
                words = Path(f"/proc/{one.pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self.program).encode() in words:
                found.append(one.pid)
        return found

    def pid(self) -> int:
        (pid,) = self.pids()
        return pid

    def kill(self) -> int:
        """kill -9, as the kernel does when memory is short, until it is dead; the pid that it was."""
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in self.pids(), what=f"the end of {pid}")
        return pid

    def ready(self) -> None:
        wait_until(lambda: self.log.exists() and "ready" in self.log.read_text(), what="the program to be ready")

    def wait_for_another(self, than: int) -> int:
        """Wait until one other instance runs, and is guarded as such."""
        wait_until(lambda: self.pids() not in ([], [than]) and than not in self.pids(), what=f"another than {than}")
        wait_until(
            lambda: self.lock.exists() and self.lock.read_text() == f"{self.pids()[0]}\n", what="a true pid lock"
        )
        return self.pid()

    def status(self) -> Any:
        return next(one for one in self.guard("status", "--json").json if one["target"] == self.name)

    def end(self) -> None:
        """Nothing that the test started is left."""
        pids = self.pids()
        for one in process_table.everybody():
            marked = process_table.environment_entry(one.pid, "RESTART_GUARD_PROGRAM") == str(self.program)
            if one.pid in pids or marked:
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)


@contextmanager
def watching(guard: "Guard", *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A watch that is at work; afterwards it is asked to leave."""
    with guard.popen("watch", *arguments) as process:
        try:
            wait_until(lambda: at_work(process), what="the watch")
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(10)


def at_work(process: "subprocess.Popen[str]") -> bool:
    """Whether it has the pidfds or the folders of its targets open, and so waits for what happens."""
    if process.poll() is not None:
        raise AssertionError(f"the watch has ended: {process.communicate()}")
    with suppress(OSError):  # a descriptor that is closed meanwhile
        links = [os.fspath(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir()]
        return "anon_inode:inotify" in links and ") S " in Path(f"/proc/{process.pid}/stat").read_text()
    return False
