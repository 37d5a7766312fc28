"""How a process has died that is no child of ours."""

import os
import signal
import time

import pytest

from restart_guard.host import process_table

pytestmark = pytest.mark.process


@pytest.mark.parametrize(("how", "status"), [("exit", 7), ("killed", -signal.SIGKILL)])
def test_the_kernel_tells_how_a_stranger_died(how: str, status: int) -> None:
    """From Linux 6.15 on, once its parent has reaped it; before, nobody can know."""
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        child = os.fork()
        if child == 0:
            time.sleep(0.3)
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(7)
        os.write(writing, str(child).encode())
        os.waitpid(child, 0)
        os.write(writing, b"reaped")
        time.sleep(30)
        os._exit(0)
    try:
        process = process_table.identity(int(os.read(reading, 20)))
        assert process is not None
        deaths = process_table.Deaths()
        assert deaths.add(process)
        ended, _ = deaths.wait(10)
        assert ended == [process]
        assert os.read(reading, 20) == b"reaped"
        found = deaths.exit_status(process)
        assert found == status or (found is None and kernel() < (6, 15))
        assert deaths.exit_status(process) is None
        deaths.close()
    finally:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        os.close(reading)
        os.close(writing)


def kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
