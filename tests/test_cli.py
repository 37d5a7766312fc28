"""The command line: help, usage, exit codes, output that a pipe or a terminal gets, and what is not imported."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pexpect
import pytest

from restart_guard import cli
from restart_guard.cli import COMMANDS
from tests.conftest import Guard, job
from tests.support.servers import RedisServer


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(guard: Guard, command: str) -> None:
    """The list's short text and the command's own help exist, and the module's command has the listed name."""
    done = guard(command, "--help")
    assert done.code == 0
    assert (
        done.out.startswith(f"Usage: restart-guard [OPTIONS] {command}") or f" {command} " in done.out.splitlines()[0]
    )
    module = importlib.import_module(f"restart_guard.commands.{COMMANDS[command][0]}")
    assert isinstance(module.command, click.Command)
    assert module.command.name == command


def test_help_without_a_command(guard: Guard) -> None:
    """--help lists every command; without arguments the same help comes with exit code 2."""
    done = guard("--help")
    assert done.code == 0
    assert all(command in done.out for command in COMMANDS)
    bare = subprocess.run([sys.executable, "-m", "restart_guard"], capture_output=True, encoding="utf-8", check=False)
    assert (bare.returncode, bare.stdout) == (2, done.out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chek-redis"], "There is no command chek-redis (did you mean check-redis?)."),
        (["check-redis", "--jsn"], "--json"),
        (["history", "-n", "0"], "-n"),
        (["history", "--check", "a", "--target", "b"], "exclude each other"),
    ],
)
def test_wrong_usage_is_two(guard: Guard, arguments: list[str], words: str) -> None:
    """Unknown commands, options and names give exit code 2, a sentence and no traceback."""
    done = guard.configure("")(*arguments)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


def test_no_config_is_two_and_names_the_places(guard: Guard) -> None:
    """Every place that was searched is in the message."""
    done = subprocess.run(
        [sys.executable, "-m", "restart_guard", "history"],
        cwd=guard.directory, env=guard.environ, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "looked for config.toml" in done.stderr


def test_a_wrong_config_is_two_with_a_line_each(guard: Guard) -> None:
    """All problems come at once, each with its dotted key."""
    done = guard.configure("[redis]\ntimeout = 5\nur = 1\n")("check-redis")
    assert (done.code, done.out) == (2, "")
    assert [line.split(f"{guard.config}: ")[1].split(":")[0] for line in done.err.splitlines()] == [
        "redis.ur", "redis.timeout"
    ]  # fmt: skip


def test_quiet_says_only_what_went_wrong(guard: Guard, redis_server: RedisServer) -> None:
    """-q prints a failure on stderr and nothing else; --json still prints its document."""
    guard.configure(job(redis_server, None, None))
    done = guard("-q", "check-redis")
    assert (done.code, done.out) == (1, "")
    assert "metadata: FAILED" in done.err
    assert json.loads(guard("-q", "check-redis", "--json").out)


def test_a_closed_pipe_is_no_error(guard: Guard, redis_server: RedisServer) -> None:
    """history | head ends without a traceback."""
    guard.configure(job(redis_server, None, None))
    guard("check-redis")
    process = guard.popen("history")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
    process.stderr.close()


def on_a_terminal(guard: Guard, command: str) -> str:
    """What a person at a terminal sees of a command."""
    spawned = pexpect.spawn(
        sys.executable,
        guard.command(command)[1:],
        env=guard.environ,
        cwd=str(guard.directory),
        encoding="utf-8",
        dimensions=(40, 200),
    )
    spawned.expect(pexpect.EOF)
    shown = str(spawned.before)
    spawned.close(force=True)
    return shown


def test_a_terminal_gets_a_table_and_no_stamps(guard: Guard, redis_server: RedisServer) -> None:
    """On a terminal lines have no time, and history is a table with heads."""
    guard.configure(job(redis_server, None, None, "retries = 0"))
    check = on_a_terminal(guard, "check-redis")
    assert "metadata: FAILED: 1 of 1 key bad" in check
    assert "reading" in check, "the progress bar"
    assert re.search(r"\d{4}-\d\d-\d\dT", check) is None
    history = on_a_terminal(guard, "history")
    assert "at" in history.splitlines()[0]
    assert "check metadata" in history


# msgspec imports typing_extensions where it is installed; the type checker brought it here, operators do not have it.
AS_INSTALLED = "import sys; sys.modules['typing_extensions'] = None; from restart_guard.__main__ import main; main()"
# What an idle tick and status have no use for: without it they take 5.3 times a bare start instead of 7.1.
NOT_IDLE = {"click", "inspect", "dataclasses", "subprocess", "difflib", "traceback", "tempfile", "random"}
CLOSED = {"stdout": ">&-", "stderr": "2>&-", "stdin": "<&-", "all": "<&- >&- 2>&-"}


@pytest.mark.parametrize("which", CLOSED)
def test_a_stream_that_is_closed_stops_no_job(guard: Guard, redis_server: RedisServer, which: str) -> None:
    """All checks are done, and no file of ours is taken for the stream."""
    checks = "".join(f'[checks.c{number}]\nkeys = ["k"]\nretries = 0\n' for number in range(3))
    guard.configure(f'[redis]\nurl = "{redis_server.url}"\n{checks}')
    for words in (["check-redis"], ["history"], ["doctor"], ["restart"]):
        command = f'exec "$@" {CLOSED[which]}'
        done = subprocess.run(
            ["sh", "-c", command, "sh", *guard.command(*words)],
            env=guard.environ, cwd=guard.directory, capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), (words, done)
    assert len(guard("history", "--json").json) == 3
    assert not (guard.state / "restart-guard.log").exists()


@pytest.mark.parametrize(
    ("error", "code"), [("ZeroDivisionError('oops')", "bug"), ("errors.GuardError('oops: do this.')", "stopped")]
)
def test_what_stops_a_check_is_an_outcome(guard: Guard, redis_server: RedisServer, error: str, code: str) -> None:
    """A row, an alert and a sentence, as for any failure; the next check is done. Only a bug is called one."""
    checks = "".join(f'[checks.{name}]\nkeys = ["k"]\nretries = 0\n' for name in "ab")
    guard.configure(f'[redis]\nurl = "{redis_server.url}"\n{checks}')
    script = (
        "import sys\nfrom restart_guard import entry, errors\nfrom restart_guard.checks import read\nreal = read.read\n"
        f"def broken(settings, check, **more):\n    read.read = real\n    raise {error}\n"
        "read.read = broken\nsys.exit(entry.run(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *guard.command("check-redis", "--json")[3:]],
        env=guard.environ, cwd=guard.directory, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 1, done
    first, second = json.loads(done.stdout)
    assert (first["error"], second["error"]) == (code, None)
    log = guard.state / "restart-guard.log"
    if code == "bug":
        assert "This is a bug in restart-guard (ZeroDivisionError)" in done.stderr
        assert "oops" in log.read_text()
    else:
        assert "oops: do this." in first["detail"]
        assert not log.exists()
    assert [event["status"] for event in guard.history()] == ["failure", "failure"]


@pytest.mark.parametrize("zone", ["CST-8", "America", "Nowhere/City", ":Europe/Berlin", "", "\udcff"])
def test_any_zone_will_do(guard: Guard, redis_server: RedisServer, zone: str) -> None:
    """A zone by its offset, a folder of zones, one that does not exist: schedules are judged all the same."""
    guard.configure(job(redis_server, None, None, "retries = 0"))
    guard.environ |= {"TZ": zone}
    assert guard("check-redis", "--if-due").code in (0, 1)
    assert guard("doctor").code in (0, 1)


HOSTILE = "k\x1b]0;title\x07\x1b[2J\x9b2J\x9d52;c;eA==\x9c\u202eevil"


@pytest.mark.parametrize("command", ["check-redis", "history", "status"])
def test_a_terminal_gets_no_control_sequences_of_others(guard: Guard, redis_server: RedisServer, command: str) -> None:
    """Not from a key's name: titles, the clipboard, the screen and the direction of text are the operator's."""
    with redis_server.client() as client:
        client.set(HOSTILE, "no JSON")
    checks = '[checks.a]\nretries = 0\npatterns = ["k*"]\nformat = "json"\n'
    guard.configure(f'[redis]\nurl = "{redis_server.url}"\n{checks}')
    guard("check-redis")
    shown = on_a_terminal(guard, command)
    for sequence in ("\x1b]", "\x1b[2J", "\x9b", "\x9d", "\x07", "\u202e"):
        assert sequence not in shown
    assert "\u202e" not in guard("history", "--json").out
    assert "evil" in str(guard("history", "--json").json[0])


HEAVY = {"redis", "pymysql", "requests", "rich", "cryptography", "urllib3"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["history", "--json"], ["status"], ["restart"]])
def test_light_commands_import_no_driver(guard: Guard, redis_server: RedisServer, arguments: list[str]) -> None:
    """What cron starts each minute must not pay for redis, pymysql, requests or rich."""
    guard.configure(job(redis_server, None, None) + '[targets.a]\nprogram = "a.py"\n')
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", AS_INSTALLED, *guard.command(*arguments)[3:]],
        env=guard.environ, cwd=guard.directory, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    imported = {name.split(".")[0] for name in modules}
    assert "restart_guard" in imported
    assert imported & HEAVY == set()
    if arguments in (["status"], ["restart"]):
        assert imported & NOT_IDLE == set()
        assert "restart_guard.programs.actions" not in modules


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "zh_CN.GBK"])
def test_any_locale_prints_chinese(guard: Guard, redis_server: RedisServer, locale: str) -> None:
    """cron has no LANG at all; a name in Chinese is no reason to fail."""
    guard.configure(job(redis_server, None, None).replace("checks.metadata", 'checks."文章统计"'))
    guard.environ |= {"LC_ALL": locale}
    done = guard("check-redis")
    assert done.code == 1
    assert "文章统计: FAILED" in done.out


def test_help_groups_every_command_by_what_an_operator_does(guard: Guard) -> None:
    """Each command once; the groups in the order of need."""
    out = guard("--help").out
    assert sorted(name for names in cli.GROUPS.values() for name in names) == sorted(cli.COMMANDS)
    places = [out.index(f"{title}:") for title in cli.GROUPS]
    assert places == sorted(places)
    assert re.search(r"^  start +Start programs", out, re.MULTILINE)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_can_load_the_completion(guard: Guard, shell: str) -> None:
    """As the README says it: the script is made, the shell that is installed loads it, and it completes a command."""
    script = Path(sys.executable).with_name("restart-guard")
    environ = guard.environ | {"_RESTART_GUARD_COMPLETE": f"{shell}_source"}
    made = subprocess.run([script], env=environ, capture_output=True, text=True, check=True).stdout
    assert "_RESTART_GUARD_COMPLETE" in made
    if shutil.which(shell) is not None:
        (guard.directory / "completion").write_text(made)
        # zsh's function compdef comes with its completion system.
        before = "autoload -Uz compinit && compinit -u; " if shell == "zsh" else ""
        subprocess.run([shell, "-c", f"{before}source ./completion"], cwd=guard.directory, check=True)
    asked = environ | {
        "_RESTART_GUARD_COMPLETE": "bash_complete",
        "COMP_WORDS": "restart-guard star",
        "COMP_CWORD": "1",
    }
    found = subprocess.run([script], env=asked, capture_output=True, text=True, check=True).stdout.split()
    assert found == ["plain,start"]
