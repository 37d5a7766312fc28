"""What is said about a past against what was: to the second of a watch, to the minute of the tick."""

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Guard
from tests.support.servers import wait_until
from tests.support.services import PROGRAMS

MINUTE = 60


def configured(guard: Guard, more: str) -> Guard:
    (guard.directory / "run.sh").write_text("#!/bin/sh\nexec sleep 1000\n")
    (guard.directory / "run.sh").chmod(0o755)
    return guard.configure(f'[targets.web]\nprogram = "run.sh"\ncommand = "{{program}}"\nmin_uptime = "50ms"\n{more}')


def uptime(guard: Guard, shift: float = 0.0) -> dict[str, float]:
    done = guard("history", "--uptime", "--days", "1", "--json", environ=at(shift))
    (row,) = done.json
    found: dict[str, float] = row
    return found


def at(shift: float) -> dict[str, str]:
    return {"PYTHONPATH": str(PROGRAMS), "RG_CLOCK_SHIFT": str(shift)}


def kill(guard: Guard) -> None:
    pid = int((guard.directory / "run.sh.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the death")


@pytest.mark.process
@pytest.mark.slow
def test_an_hour_of_ticks(guard: Guard) -> None:
    """On a clock of the test's own: deaths of chance, and times in which nobody looked."""
    configured(guard, 'restart_backoff = { base = "10ms", max = "10ms" }\n')
    chance = random.Random(time.time_ns())
    assert guard("start", environ=at(0)).code == 0
    try:
        deaths, unseen, minute, begun = 0, 0, 0, time.monotonic()
        while minute < 60:
            minute += 1
            if minute > 1 and chance.random() < 0.08:
                unseen += 4
                minute += 4  # nobody looks for four minutes, which is a gap
            elif chance.random() < 0.2:
                kill(guard)
                deaths += 1
            assert guard("restart", environ=at(minute * MINUTE)).code == 0
        found = uptime(guard, minute * MINUTE)
        assert found["outages"] == deaths
        # A death counts from the middle of the minute in which it was.
        assert abs(found["down_s"] - deaths * MINUTE / 2) <= 2 * (deaths + 1)
        gaps = unseen / 4
        assert abs(found["unknown_s"] - 5 * MINUTE * gaps) <= 2 * (gaps + 1)
        whole = minute * MINUTE + time.monotonic() - begun  # the commands take their time
        assert abs(found["up_s"] + found["down_s"] + found["unknown_s"] - whole) <= 5
    finally:
        guard("stop", "--force", "--timeout", "0s")


@pytest.mark.process
@pytest.mark.slow
def test_a_watch_tells_each_second(guard: Guard) -> None:
    """With a pause before each relaunch, measured from outside; ticks come in between as cron would start them."""
    configured(guard, 'restart_backoff = { first = "700ms", base = "700ms", max = "2s", reset_after = "100ms" }\n')
    chance = random.Random(time.time_ns())
    lock = guard.directory / "run.sh.pid"
    assert guard("start").code == 0
    with guard.popen("watch") as watch:
        try:
            down, outages, begun = 0.0, 0, time.monotonic()
            time.sleep(1)
            for _ in range(6):
                time.sleep(chance.random() * 1.5 + 0.3)
                before = int(lock.read_text())
                died = time.monotonic()
                kill(guard)
                if chance.random() < 0.5:
                    guard("restart")
                wait_until(partial(is_another, lock, before), what="the relaunch")
                down += time.monotonic() - died
                outages += 1
            time.sleep(0.5)
            guard("restart")
            whole = time.monotonic() - begun
        finally:
            watch.terminate()
            watch.communicate()
            guard("stop", "--force", "--timeout", "0s")
    found = uptime(guard)
    assert found["outages"] == outages
    assert abs(found["down_s"] - down) < 0.25 * outages
    assert 0 <= found["up_s"] + found["down_s"] - whole < 3  # its start comes before, and its stop after


def is_another(lock: Path, pid: int) -> bool:
    try:
        now = int(lock.read_text())
        return now != pid and Path(f"/proc/{now}").exists()
    except (OSError, ValueError):
        return False
