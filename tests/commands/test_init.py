"""The first minute: a config out of nothing that works as it is."""

import stat
import tomllib
from pathlib import Path

import pexpect
import pytest

from restart_guard.config import load as config_file
from restart_guard.config import template
from tests.conftest import Guard
from tests.support.servers import wait_until
from tests.support.services import Service


def test_init_is_enough_to_guard_a_program(service: Service) -> None:
    """init --program, start: it runs and is guarded; the config is readable for us alone, and never overwritten."""
    guard = service.guard
    done = guard("init", "--program", str(service.program.relative_to(guard.directory)))
    assert done.code == 0
    assert "Next: restart-guard start, then restart-guard install-timer" in done.out
    assert stat.S_IMODE(guard.config.stat().st_mode) == 0o600
    assert guard("start").code == 0
    assert service.lock.read_text() == f"{service.pid()}\n"
    before = guard.config.read_text()
    again = guard("init")
    assert again.code == 1
    assert "already exists; nothing was changed" in again.err
    assert guard.config.read_text() == before


@pytest.mark.parametrize("program", [None, "server/run.py", '服务 "x"/跑.py'])
def test_what_is_written_is_a_config_also_with_every_comment_switched_on(tmp_path: Path, program: str | None) -> None:
    """A user who removes the # signs gets a valid config."""
    text = template.config("网站", program)
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    found = config_file.load(tmp_path / "config.toml", {})
    assert [target.program for target in found.targets.values()] == ([tmp_path / program] if program else [])
    on = "\n".join(line.removeprefix("# ") if " = " in line or "# [" in line else line for line in text.splitlines())
    (tmp_path / "config.toml").write_text(on, encoding="utf-8")
    full = config_file.load(tmp_path / "config.toml", {})
    assert full.mysql is not None
    assert full.wecom is not None
    assert list(full.checks) == ["metadata"]
    assert tomllib.loads(text)["state_dir"] == "state"


def test_on_a_terminal_it_asks_for_the_program(guard: Guard) -> None:
    """The answer becomes the config's target."""
    words = guard.command("init")
    child = pexpect.spawn(
        words[0], words[1:], env=guard.environ, cwd=str(guard.directory), encoding="utf-8", timeout=20
    )
    child.expect("The program to guard")
    child.sendline("server/run.py")
    child.expect(pexpect.EOF)
    wait_until(guard.config.exists, what="the config")
    assert 'program = "server/run.py"' in guard.config.read_text()
