"""The demo shows the real job, with a redis-server on PATH and with the embedded one, and leaves nothing behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.server
@pytest.mark.parametrize("server", ["installed", "embedded"])
def test_the_demo(tmp_path: Path, server: str) -> None:
    """It tells its story in order, exits with 0, and its temporary files are gone afterwards."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").symlink_to("/bin/sh")
    path = os.environ["PATH"] if server == "installed" else str(tmp_path / "bin")
    environ = {"PATH": path, "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "LANG": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-m", "restart_guard", "demo"],
        env=environ, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("valkey" in done.stdout.splitlines()[0]) == (server == "embedded")
    story = [
        "article_counts: good: 1 key",
        "restart attempt 3 of 3",
        "【故障】",
        "@13800001111",
        "FAILED",
        "【恢复】",
        "$ restart-guard history",
    ]
    places = [done.stdout.index(words) for words in story]
    assert places == sorted(places)
    assert "doctor" in done.stdout
    assert re.search(r"relaunched as pid \d+ [0-9.]+ ms after the kill; it answers {\"msg\": \"running\"}", done.stdout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]
