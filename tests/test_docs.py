"""What is written is true: the README's commands, options and config exist, and the scripts say what they do."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from restart_guard.cli import COMMANDS
from restart_guard.config import load as config_file
from restart_guard.errors import ExitCode
from tests.conftest import Guard

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_readme_lists_every_command_and_its_options(guard: Guard) -> None:
    """Each row of the command table is a command, with just the options that its help has."""
    rows = re.findall(r"^\| `([a-z-]+)([^`]*)` \|", README, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(COMMANDS)
    for name, rest in rows:
        options = set(re.findall(r"--[a-z-]+|(?<=\[)-n", rest))
        helped = set(re.findall(r"^  (?:-[a-z], )?(--[a-z-]+|-n)", guard(name, "--help").out, re.MULTILINE)) - {
            "--help"
        }
        assert options == helped, name


def test_the_readme_tells_every_exit_code() -> None:
    """The table has exactly the codes of ExitCode, except the shell's own for SIGINT."""
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert told == {int(code) for code in ExitCode} - {ExitCode.INTERRUPTED}


def test_the_readmes_config_loads(tmp_path: Path) -> None:
    """The least config of the README is a valid config."""
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "config.toml").write_text("\n".join(line.removeprefix("   ") for line in text.splitlines()))
    config = config_file.load(tmp_path / "config.toml", {})
    assert list(config.checks) == ["metadata"]


def test_files_that_the_readme_names_exist() -> None:
    """So do the benchmarks that it names."""
    for name in re.findall(r"`((?:sbin|tests|restart_guard)/[\w./]*)`", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"python -m (tests\.[\w.]+)", README):
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").exists(), name


@pytest.mark.process
@pytest.mark.parametrize("script", sorted((ROOT / "sbin").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_plain_sh(script: Path) -> None:
    """They run on a machine with nothing but a POSIX shell."""
    assert script.read_text().startswith("#!/bin/sh\n")
    assert script.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", script], check=True)


def test_the_changelog_keeps_its_form() -> None:
    """It has an Unreleased section, and only the headings of Keep a Changelog."""
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security",
    }  # fmt: skip


def test_every_dependency_is_used() -> None:
    """Each dependency in pyproject.toml is imported somewhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[A-Za-z0-9-]+", line)[0].lower().replace("-", "_") for line in project["dependencies"]}  # type: ignore[index]
    source = "\n".join(path.read_text() for path in (ROOT / "restart_guard").rglob("*.py"))
    ways = r"^\s*(?:import|from) {0}\b"
    used = {name for name in names if re.search(ways.format(name), source, re.MULTILINE)}
    assert names - used == set()


def test_every_test_says_its_claim() -> None:
    """Each test has a docstring with the sentence that would be false if it failed."""
    silent = [
        f"{path.name}: {node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []


@pytest.mark.parametrize("name", ["run", "demo", "test"])
def test_the_lock_file_has_what_pyproject_asks_for(name: str) -> None:
    """Each dependency is there within its range, and each package has hashes; sbin/lock.sh writes the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    if name != "run":
        wanted += project["project"]["optional-dependencies"]["demo"]
    if name == "test":
        wanted += project["dependency-groups"]["dev"]
    blocks = re.split(r"\n(?=[a-z])", (ROOT / "requirements" / f"{name}.txt").read_text())[1:]
    locked = {}
    for block in blocks:
        assert "--hash=sha256:" in block, block
        package, version = block.split(" ")[0].split("==")
        locked[package] = version
    for requirement in map(Requirement, wanted):
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
