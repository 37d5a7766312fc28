"""Several users and one program: who may act on it, who only sees it, and whom root trusts (docs/security.md)."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from restart_guard.host import process_table
from tests.conftest import Guard
from tests.support.services import kill_dead

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")

SCRIPT = "while :; do sleep 0.05; done\n"
GROUP = 23456


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a program of sh in it; the way to it is open to all users."""
    directory = tmp_path_factory.mktemp("shared")
    directory.chmod(0o755)
    for path in directory.parents:
        if path.name.startswith(("pytest-", "popen-")):
            path.chmod(0o755)
    (directory / "loop.sh").write_text(SCRIPT)
    return directory


def as_user(
    directory: Path, uid: int, *commands: str, user: str = "", group: int = 0, more: str = "", home: bool = True
) -> "subprocess.Popen[str]":
    """Run commands as a user, with a config and a state directory of that user's own outside the directory.

    The interpreter's files may be unreadable for that user, so everything is imported before.
    """
    own = directory.parent / f"{directory.name}-{uid}"
    own.mkdir(exist_ok=True)
    config = own / "config.toml"
    config.write_text(
        f'state_dir = "state"\n[targets.loop]\nprogram = "{directory}/loop.sh"\ncommand = "/bin/sh {{program}}"\n'
        f'min_uptime = "100ms"\nrestart_backoff = {{ base = "1ms", max = "1ms" }}\n{more}\n'
        + (f'user = "{user}"\n' if user else "")
    )
    config.chmod(0o600)
    for path in (own, config):
        os.chown(path, uid, group or uid)
    source = (
        "import os, sys\nfrom restart_guard import cli, entry\n"
        "from restart_guard.programs import actions\nfrom restart_guard.journal import journal\n"
        "from restart_guard.commands.programs import kill, restart, start, status, stop\n"
        "from restart_guard.commands.reports import doctor\n"
        "from restart_guard.standby import memory\n"
        "import restart_guard.doctor.examine\n"
        "import ctypes, difflib, resource, encodings.idna, ipaddress, sqlite3, subprocess, traceback\n"
        f"os.setgroups([{group or uid}]); os.setgid({group or uid}); os.setuid({uid}); os.umask(0o22)\n"
        f"sys.exit(max(entry.run(['-c', {str(config)!r}, *words.split()]) for words in sys.argv[1:]))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", source, *commands],
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"} | ({"HOME": str(own)} if home else {}),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said_by(directory: Path, uid: int, *commands: str, user: str = "", group: int = 0, more: str = "") -> str:
    """What commands say, the exit code of the worst last."""
    process = as_user(directory, uid, *commands, user=user, group=group, more=more)
    text = process.communicate(timeout=60)[0]
    assert "Traceback" not in text
    assert process.returncode != 70, text
    return f"{text}exit code {process.returncode}"


def loops(directory: Path) -> list[int]:
    script = os.fsencode(directory / "loop.sh")
    found = []
    for one in process_table.everybody():
        if not one.dead and one.session == one.pid:
            try:
                words = Path(f"/proc/{one.pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if script in words:
                found.append(one.pid)
    return found


def kill_loops(directory: Path) -> None:
    for pid in loops(directory):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("who", ["members", "root and its user"])
def test_two_users_make_one_instance(shared: Path, who: str) -> None:
    """Those who may act on a program, starts and ticks at once, the program killed in between: never two."""
    if who == "members":
        os.chown(shared, 0, GROUP)
        shared.chmod(0o2775)
        users = [(65534, ""), (12345, "")]
    else:
        os.chown(shared, 65534, GROUP)
        users = [(65534, ""), (0, "nobody")]
    try:
        for _ in range(4):
            crowd = [
                as_user(shared, uid, "start", "restart", "restart", user=user, group=GROUP if uid else 0)
                for uid, user in users
                for _ in range(3)
            ]
            outputs = [process.communicate(timeout=60)[0] for process in crowd]
            assert len(loops(shared)) == 1, outputs
            assert not any("Traceback" in text or "bug" in text for text in outputs), outputs
            assert not any(process.returncode for process in crowd), outputs
            os.kill(loops(shared)[0], signal.SIGKILL)
    finally:
        kill_loops(shared)


LOCKING = """
import os, sys
from restart_guard.errors import BusyError
from restart_guard.programs.pidlock import PidLock
from pathlib import Path
import encodings.idna

real = os.open
def held_up(path, flags, *mode):
    if flags & {flag} and str(path).endswith({name!r}):
        print("here", flush=True)
        sys.stdin.readline()
    return real(path, flags, *mode)

os.setgroups([]); os.setgid({uid}); os.setuid({uid})
os.open = held_up
try:
    with PidLock(Path({program!r})).held(wait_s={wait_s}):
        print("held", flush=True)
        sys.stdin.readline()
except BusyError:
    print("busy", flush=True)
"""


def locking(
    program: Path, uid: int, *, held_up_at: str = "", flag: str = "os.O_CREAT", wait_s: float = 0
) -> "subprocess.Popen[str]":
    """Take the program's lock as a user; says ``here`` before it opens that file so, and ``held`` or ``busy``."""
    name = held_up_at or "nothing"
    source = LOCKING.format(flag=flag, name=name, uid=uid, program=str(program), wait_s=wait_s)
    return subprocess.Popen(
        [sys.executable, "-c", source], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_lock_file_that_somebody_makes_meanwhile_excludes(shared: Path) -> None:
    """One finds no lock file, the other makes it, the first is refused to make it: it looks again, and waits."""
    os.chown(shared, 65534, 65534)
    program = shared / "loop.sh"
    with locking(program, 65534, held_up_at=".loop.sh.lock") as first:
        assert said(first) == "here"
        with locking(program, 65534) as second:
            assert said(second) == "held"
            go_on(first)
            assert said(first) == "busy"
            go_on(second)


def test_root_starts_it_as_another_user_and_others_cannot(shared: Path) -> None:
    """uid, gid and HOME are that user's; without root it is refused in words."""
    guard = Guard(shared)
    guard.configure(
        '[targets.loop]\nprogram = "loop.sh"\ncommand = "/bin/sh {program}"\nmin_uptime = "100ms"\nuser = "nobody"\n'
    )
    try:
        assert guard("start").code == 0
        (pid,) = loops(shared)
        assert Path(f"/proc/{pid}").stat().st_uid == 65534
        assert process_table.environment_entry(pid, "USER") == "nobody"
        assert guard("stop").code == 0
    finally:
        for pid in loops(shared):
            os.kill(pid, signal.SIGKILL)
    guard.configure('[targets.loop]\nprogram = "loop.sh"\ncommand = "/bin/sh {program}"\nuser = "nobody-here"\n')
    assert "there is no user nobody-here on this host" in guard("start").err


def test_another_user_gets_a_clean_environment(shared: Path) -> None:
    """What any login has, and what is to be passed; nothing else of root's."""
    guard = Guard(shared)
    guard.environ |= {"ROOTS_TOKEN": "roots-secret", "LC_TIME": "C", "APP_NAME": "app", "TZ": "Asia/Shanghai"}
    guard.configure(
        '[targets.loop]\nprogram = "loop.sh"\ncommand = "/bin/sh {program}"\nmin_uptime = "100ms"\nuser = "nobody"\n'
        'pass_environment = ["APP_*"]\nenvironment = { PORT = "1" }\n'
    )
    try:
        assert guard("start").code == 0
        (pid,) = loops(shared)
        entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
        names = {entry.partition("=")[0] for entry in entries if entry}
        assert {"PATH", "HOME", "USER", "LC_TIME", "TZ", "APP_NAME", "PORT"} <= names
        ours = {name for name in names if name.startswith("RESTART_GUARD_")}
        assert names - ours <= {
            *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_TIME", "LC_ALL", "TZ", "APP_NAME", "PORT")
        }
        assert guard("stop").code == 0
    finally:
        kill_loops(shared)


def test_another_users_program_is_neither_signalled_nor_doubled(shared: Path) -> None:
    """Root's instance of a program that others may run too: they are told, and start no second one beside it."""
    try:
        assert "started" in said_by(shared, 0, "start")
        (pid,) = loops(shared)
        own = shared.parent / f"{shared.name}-12345"
        text = said_by(shared, 12345, "start", "restart", "stop", more=f'pid_file = "{own}/loop.pid"')
        assert loops(shared) == [pid]
        assert text.endswith("exit code 1"), text
        assert "it runs as user root" in text
    finally:
        kill_loops(shared)


def test_a_member_of_a_group_leaves_anothers_instance_alone(shared: Path) -> None:
    """It runs as the other: it is shown, not signalled, not doubled, and relaunched by whoever notices its death."""
    os.chown(shared, 0, GROUP)
    shared.chmod(0o2775)
    try:
        assert "started" in said_by(shared, 65534, "start", group=GROUP)
        (pid,) = loops(shared)
        text = said_by(shared, 12345, "status", "restart", "start", "stop", group=GROUP)
        assert loops(shared) == [pid]
        assert "loop: running" in text
        assert "runs as user nobody" in text
        assert "only that user and root can stop" in text
        assert text.endswith("exit code 1")
        kill_dead(pid)
        assert "relaunched" in said_by(shared, 12345, "restart", group=GROUP)
        (again,) = loops(shared)
        assert process_table.owner(again) == 12345
        text = said_by(shared, 65534, "restart", "status", group=GROUP)
        assert loops(shared) == [again]
        assert "runs as user 12345" in text
    finally:
        kill_loops(shared)


@pytest.mark.parametrize("command", ["status", "start", "stop", "kill", "restart", "doctor"])
def test_a_folder_that_may_not_be_searched_is_told(shared: Path, command: str) -> None:
    """Nobody knows then whether the program should run: it is not called stopped, and nothing ends as a bug."""
    shared.chmod(0o700)
    process = as_user(shared, 65534, command)
    said = process.communicate(timeout=30)[0]
    assert ("unknown" if command in ("status", "doctor") else str(shared)) in said, said
    assert process.returncode == (4 if command == "status" else 1), said
    assert "bug" not in said


def test_a_user_without_a_home_and_without_an_entry(shared: Path) -> None:
    """As in a container whose platform chooses the uid: everything that needs neither works."""
    try:
        shared.chmod(0o777)
        for command in ("start", "status", "doctor", "stop"):
            process = as_user(shared, 54321, command, home=False)
            said = process.communicate(timeout=30)[0]
            assert process.returncode == 0, said
            assert "bug" not in said
    finally:
        kill_loops(shared)
