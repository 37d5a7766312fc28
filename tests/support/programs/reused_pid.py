"""What happens when a dead program's pid is given to a bystander. Pid 1 of a pid namespace of its own runs this."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

config, program = sys.argv[1:]


def guard(*arguments: str) -> str:
    command = [sys.executable, "-m", "restart_guard", "-c", config, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def guarded() -> int:
    return int(Path(f"{program}.pid").read_text())


def reused(pid: int) -> "subprocess.Popen[bytes]":
    """A process that has been given this pid, by /proc/sys/kernel/ns_last_pid (pid_namespaces(7))."""
    for _ in range(200):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        found = subprocess.Popen(["sleep", "60"])
        if found.pid == pid:
            return found
        found.kill()
        found.wait()
    raise AssertionError("the pid was not given out")


guard("start")
pid = guarded()
os.kill(pid, signal.SIGKILL)
with suppress(ChildProcessError):  # where SIGCHLD is ignored, the kernel has done it
    os.waitpid(pid, 0)  # as pid 1 should
bystander = reused(pid)
assert json.loads(guard("status", "--json"))[0]["state"] == "dead"
assert "relaunched" in guard("restart")
again = guarded()
assert again != pid
assert bystander.poll() is None
Path(f"{program}.pid").write_text(f"{pid}\n")
assert "its pid lock was repaired" in guard("restart")
assert guarded() == again
guard("kill")
guard("stop")
assert bystander.poll() is None
print("the bystander lives")
