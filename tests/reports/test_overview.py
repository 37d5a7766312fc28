"""``restart-guard`` alone, ``history`` and ``status`` as a person sees them."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from restart_guard.reports.overview import ago
from restart_guard.reports.uptime import percent, sparkline
from tests.conftest import Guard

pytestmark = pytest.mark.process


def program(guard: Guard, name: str = "run.sh", text: str = "exec sleep 1000") -> str:
    path = guard.directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f'program = "{name}"\ncommand = "{{program}}"\nmin_uptime = "50ms"\n'


@pytest.fixture
def web(guard: Guard) -> Iterator[Guard]:
    """A program that runs, a check and a refresh that never ran."""
    text = f"[targets.web]\n{program(guard)}[targets.off]\n{program(guard, 'off.sh')}"
    text += '[checks.meta]\nkeys = ["k"]\n[redis]\nurl = "redis://127.0.0.1:1/0"\n'
    guard.configure(text)
    assert guard("start", "web").code == 0
    yield guard
    guard("stop", "--force", "--timeout", "0s")


def overview(guard: Guard) -> dict[str, dict[str, Any]]:
    found = guard("--json")
    assert found.code == 0, found
    return {line["what"]: line for line in found.json}


def test_worst_first_and_what_to_type(web: Guard) -> None:
    """Each line has a command that works."""
    assert web("restart").code == 0
    assert web("check-redis").code == 1
    found = overview(web)
    assert next(iter(found)) == "check meta"
    assert (found["check meta"]["level"], found["web" if "web" in found else "programs"]["level"]) == ("fail", "ok")
    assert found["off"]["text"] == "stopped"
    assert found["timer"]["text"] == "last tick"
    os.kill(int((web.directory / "run.sh.pid").read_text()), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while overview(web).get("web", {}).get("level") != "fail":
        assert time.monotonic() < deadline
    assert web("restart").code == 0
    assert "runs again; died: " in overview(web)["web"]["text"]
    for line in overview(web).values():
        if line["next"] is not None and "install-timer" not in line["next"]:
            words = line["next"].split()
            assert words[:2] == ["restart-guard", "-c"]
            assert web(*words[3:]).code in (0, 1, 3), line


def test_without_a_config_it_is_the_help(tmp_path: Path) -> None:
    """And a command that is misspelt stays an error."""
    guard = Guard(tmp_path)
    command = [*guard.command()[:-2]]
    done = subprocess.run(command, cwd=tmp_path, env=guard.environ, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, "Usage: " in done.stdout) == (2, True)
    found = subprocess.run([*command, "--help"], cwd=tmp_path, env=guard.environ, capture_output=True, check=False)
    assert found.returncode == 0
    guard.configure("")
    assert guard("--json", "status").code == 2
    assert guard("stats").code == 2


def heeds_interrupts() -> None:
    """Whoever runs the tests in the background may ignore them, which is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A terminal of 80 columns in which a command runs."""

    def __init__(self, guard: Guard, *arguments: str) -> None:
        self._screen, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = guard.environ | {"TERM": "xterm"}
        self.process = subprocess.Popen(
            guard.command(*arguments), cwd=guard.directory, env=environment, stdin=side, stdout=side, stderr=side,
            start_new_session=True, preexec_fn=heeds_interrupts,  # noqa: PLW1509 (no threads here)
        )  # fmt: skip
        os.close(side)

    def read(self, until: str | None = None) -> str:
        """What is on it without colours, to the end or until a text has come."""
        found, text = b"", ""
        with suppress(OSError):
            while part := os.read(self._screen, 65536):
                found += part
                text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", found.decode(errors="replace")).replace("\r", "")
                if until is not None and until in text:
                    break
        return text

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)


@pytest.mark.parametrize("arguments", [(), ("status",), ("history",), ("history", "--uptime")])
def test_nothing_folds_at_80_columns(web: Guard, arguments: tuple[str, ...]) -> None:
    """A line is a line: what does not fit is cut, and never the time."""
    web("check-redis")
    web("restart")
    terminal = Terminal(web, *arguments)
    try:
        lines = [line.rstrip() for line in terminal.read().splitlines() if line.strip()]
    finally:
        terminal.close()
    assert all(len(line) <= 80 for line in lines)
    rows = {(): 5, ("status",): 2, ("history",): 2, ("history", "--uptime"): 3}[arguments]
    assert len(lines) == rows + 1, lines
    if arguments == ("history",):
        assert re.match(r"\d\d-\d\d \d\d:\d\d:\d\d  check meta  failure  ", lines[1])


def test_status_is_drawn_again(web: Guard) -> None:
    """Each second, with what has changed; off a terminal that is a usage error."""
    terminal = Terminal(web, "status", "--watch")
    try:
        assert "running" in terminal.read(until="running")
        assert web("stop", "web").code == 0
        assert "web" in terminal.read(until="web     stopped")
        os.kill(terminal.process.pid, signal.SIGINT)
        terminal.read()  # to its end: what nobody reads is waited for
        assert terminal.process.wait(10) == 0
    finally:
        terminal.close()
    assert web("status", "--watch").code == 2


def test_history_is_followed(web: Guard) -> None:
    """Oldest first, and what happens meanwhile."""
    for _ in range(3):
        web("stop", "web")
        web("start", "web")
    with web.popen("history", "-f", "-n", "1") as follower:
        try:
            assert follower.stdout is not None
            assert "started, pid" in follower.stdout.readline()
            assert web("stop", "web").code == 0
            assert "target web  success  stopped" in follower.stdout.readline()
        finally:
            follower.kill()
    assert web("history", "-f", "--json").code == 2


def test_equal_errors_are_shown_once(web: Guard) -> None:
    """A destination that is away has one reason, however much waits for it."""
    text = web.config.read_text() + '[mysql]\nhost = "127.0.0.1"\nport = 1\nuser = "u"\ndatabase = "d"\n'
    web.config.write_text(text)
    for _ in range(3):
        web("check-redis")
    out = web("history", "--check", "meta").out
    assert out.count("mysql pending") == 3
    assert out.count("Connection refused") == 1
    full = web("history", "--check", "meta", "--json").json
    assert all("T" in event["at"] and "+08:00" in event["at"] for event in full)


def test_uptime(web: Guard) -> None:
    """For each target and check; stopped is no outage."""
    web("restart")
    web("check-redis")
    time.sleep(0.2)
    web("restart")
    found = {
        row.get("target") or row.get("check"): row for row in web("history", "--uptime", "--json", "--days", "1").json
    }
    assert (found["web"]["percent"], found["web"]["outages"], found["web"]["down_s"]) == (100.0, 0, 0.0)
    assert found["web"]["up_s"] > 0.1
    assert (found["off"]["percent"], found["off"]["up_s"]) == (None, 0.0)
    assert (found["meta"]["percent"], found["meta"]["outages"]) == (0.0, 1)
    assert set(found["web"]) >= {"since", "until", "up_s", "down_s", "unknown_s", "outages", "percent"}
    out = web("history", "--uptime", "--target", "web").out
    assert out.startswith("target web\t100%\t")
    assert web("history", "--days", "3").code == 2


def test_words_for_shares_and_times() -> None:
    """Never rounded up to all; a dot where nobody knows."""
    assert [percent(share) for share in (None, 100.0, 99.9999, 50.0, 0.0)] == ["–", "100%", "99.999%", "50%", "0%"]
    assert sparkline([None, 0.0, 0.5, 0.999, 1.0]) == "·▁▄▇█"
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert [ago(now - timedelta(seconds=seconds), now) for seconds in (0, 59, 60, 7300, 200000, -90000, -5)] == [
        *("just now", "just now", "1 min ago", "2 h ago", "2 d ago", "in 1 d", "in a moment")
    ]


def test_the_json_of_nothing_is_a_list(guard: Guard) -> None:
    """Without a journal too."""
    guard.configure("")
    assert json.loads(guard("--json").out)[0]["what"] == "timer"
    assert guard("history", "--uptime", "--json").json == []
