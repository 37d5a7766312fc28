"""The timer: our block in a crontab, by a fake crontab(1), by the real one, and run by a real cron daemon."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restart_guard.crontab_block import LONGEST, lines_of, quoted, with_block, without_block
from restart_guard.errors import GuardError
from tests.conftest import Done, Guard, job
from tests.servers import RedisServer, find_program
from tests.services import Service

ROOT = Path(__file__).parent.parent
NAME = "/home/you/config.toml"
LINES = ["* * * * * tick", "0 2 * * 1 check"]

FAKE = """#!/bin/sh
# A crontab(1) whose spool is the file $RG_CRONTAB; $RG_TROUBLE makes it fail or lie.
case "$RG_TROUBLE,$1" in
fail,-l) echo "you are not allowed to use this program" >&2; exit 1 ;;
refuse,-) cat >/dev/null; echo "bad minute" >&2; exit 1 ;;
lose,-) cat >/dev/null; exit 0 ;;
changing,-l) date +%N >> "$RG_CRONTAB" ;;
esac
case $1 in
-l) [ -e "$RG_CRONTAB" ] || { echo "${RG_NONE:-no crontab for you}" >&2; exit 1; }; cat "$RG_CRONTAB" ;;
-) cat > "$RG_CRONTAB" ;;
-r) rm "$RG_CRONTAB" ;;
esac
"""

anything = st.binary(max_size=200).filter(lambda content: b"\r" not in content) | st.lists(
    st.sampled_from(
        [
            b"",
            b'MAILTO=""',
            b"# \xe9t\xe9",
            b"0\t2 * * 1  x % y",
            b"*/5 * * * * caf\xc3\xa9",
            b"# END restart-guard",
            b" ",
        ]
    )
).map(b"\n".join)


@given(anything, st.booleans())
def test_install_and_uninstall_give_the_same_bytes(content: bytes, ends: bool) -> None:
    """Whatever a crontab holds, also without a final newline; twice is once, and two configs do not meet."""
    content += b"\n" if ends else b""
    try:
        installed = with_block(content, NAME, LINES)
    except GuardError:
        assert any(line.endswith(b"\\r") for line in content.split(b"\n"))
        return
    assert installed.startswith(content)
    assert lines_of(installed, NAME) == LINES
    assert with_block(installed, NAME, LINES) == installed
    other = with_block(with_block(installed, "other", ["@daily x"]), NAME, ["@hourly y"])
    assert without_block(without_block(other, "other"), NAME) == content
    finished = content if content.endswith(b"\n") or not content else content + b"\n"
    assert without_block(without_block(other, NAME), "other") == finished
    assert without_block(content, NAME) == content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"# BEGIN restart-guard %s\n" % NAME.encode(), "1 and 0 times"),
        (b"# END restart-guard %s\n" % NAME.encode(), "0 and 1 times"),
        (b"# END restart-guard %s\n# BEGIN restart-guard %s\n" % (NAME.encode(), NAME.encode()), "wrong order"),
        (with_block(b"", NAME, LINES) * 2, "2 and 2 times"),
        (b"0 1 * * * x\r\n", "end with CR"),
        (b"0 1 * * * x\\r\n", "end with CR"),
    ],
)
def test_a_damaged_crontab_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(GuardError, match=told):
        with_block(content, NAME, LINES)
    with pytest.raises(GuardError, match=told):
        without_block(content, NAME)


def test_lines_that_cron_cannot_take_are_refused() -> None:
    with pytest.raises(GuardError, match="too long"):
        with_block(b"", NAME, ["x" * (LONGEST + 1)])
    for path in ("a\nb", "a\\b", "a\0b"):
        with pytest.raises(GuardError, match="cannot hold this path"):
            quoted(path)
    assert quoted("/dir with 100% space/it's") == "'/dir with 100'\\%' space/it'\"'\"'s'"
    assert quoted("/plain-path_1.0") == "/plain-path_1.0"


class Cron(Guard):
    """restart-guard with a crontab(1) of the test's own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.crontab = directory / "crontab"
        (directory / "bin").mkdir()
        (directory / "bin/crontab").write_text(FAKE)
        (directory / "bin/crontab").chmod(0o755)
        self.environ |= {"PATH": f"{directory}/bin:{os.environ['PATH']}", "RG_CRONTAB": str(self.crontab)}


@pytest.fixture
def cron(tmp_path: Path) -> Cron:
    one = Cron(tmp_path)
    one.configure('[targets.web]\nprogram = "x.py"\n[checks.a]\nkeys = ["k"]\n[timer]\nlog_dir = "logs"\n')
    return one


def test_the_timer_comes_and_goes(cron: Cron) -> None:
    """The tick, the check and its catch-up, with their logs; nothing else changes; the old one is saved and named."""
    before = b'MAILTO=""\n0 5 * * *\tbackup # \xe9\n'
    cron.crontab.write_bytes(before)
    dry = cron("install-timer", "--dry-run")
    assert "+* * * * * " in dry.out
    assert cron.crontab.read_bytes() == before
    done = cron("install-timer")
    assert done.code == 0
    saved = Path(done.out.split("saved as ")[1].strip().removesuffix("."))
    assert saved.read_bytes() == before
    installed = cron.crontab.read_bytes()
    assert installed.startswith(before)
    lines = lines_of(installed, str(cron.config)) or []
    logs = f"{cron.directory}/logs"
    assert [line.split(" >> ")[1] for line in lines] == [
        f"{logs}/restart.log 2>> {logs}/crontab_error.log",
        f"{logs}/get_redis_data.log 2>> {logs}/crontab_error.log",
        f"{logs}/get_redis_data.log 2>> {logs}/crontab_error.log",
    ]
    assert lines[1].startswith("0 2 * * 1 /")
    assert lines[2].startswith("23 * * * * /")
    assert Path(logs).is_dir()
    assert cron("install-timer").out.endswith("The timer is already installed.\n")
    assert cron("install-timer", "--backend", "print").out.splitlines() == lines
    assert cron("install-timer", "--watch").code == 0
    assert len(lines_of(cron.crontab.read_bytes(), str(cron.config)) or []) == 4
    assert cron("uninstall-timer").code == 0
    assert cron.crontab.read_bytes() == before
    assert cron("uninstall-timer").out.endswith("There is no timer.\n")


def test_doctor_knows_the_timer(cron: Cron) -> None:
    """No block, never a tick, a tick, a late tick, a block of another config: each told, with what to do."""

    def told(environ: dict[str, str] | None = None) -> str:
        out = cron("doctor", environ=environ or {}).out
        return next(line for line in out.splitlines() if "timer: " in line)

    assert told().endswith("the crontab has no block of this config → restart-guard install-timer")
    cron("install-timer")
    assert told().startswith("warn  timer: 3 lines in the crontab; the tick never ran")
    cron("restart")
    assert told().startswith("ok    timer: 3 lines in the crontab, the last tick ")
    later = {"PYTHONPATH": str(Path(__file__).parent / "programs"), "RG_CLOCK_SHIFT": "3600"}
    assert "the last tick was 1h ago" in told(later).replace("1h0s", "1h")[:70]
    cron.configure(cron.config.read_text().partition("\n")[2].replace('"logs"', '"elsewhere"'))
    assert told().endswith("not what it would be now → install-timer again")
    assert "crontab -l failed" in told({"RG_TROUBLE": "fail"})


def test_an_empty_crontab_is_gone_again(cron: Cron) -> None:
    """None there, in the words of each cron, is an empty one; uninstalling leaves none."""
    for words in ("no crontab for you", "crontab: can't open 'you': No such file or directory"):
        assert cron("install-timer", environ={"RG_NONE": words}).code == 0
        assert cron("uninstall-timer").code == 0
        assert not cron.crontab.exists()


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ("fail", "crontab -l failed (exit status 1: you are not allowed to use this program); nothing was changed"),
        ("refuse", "crontab refused the new crontab (exit status 1: bad minute); the old one is still in place"),
        ("lose", "The crontab is not what was written"),
        ("changing", "Somebody else has just changed the crontab; nothing was changed"),
    ],
)
def test_a_crontab_that_fails_lies_or_changes_is_told(cron: Cron, trouble: str, told: str) -> None:
    """A failing crontab -l is never taken for an empty one."""
    cron.crontab.write_bytes(b"0 5 * * * backup\n")
    done = cron("install-timer", environ={"RG_TROUBLE": trouble})
    assert done.code == 1
    assert told in done.err
    assert cron.crontab.read_bytes().startswith(b"0 5 * * * backup\n")
    assert b"restart-guard" not in cron.crontab.read_bytes()


def test_a_random_delay_is_the_same_each_time(cron: Cron) -> None:
    lines = {cron("install-timer", "--backend", "print", "--random-delay", "2h").out for _ in range(2)}
    assert len(lines) == 1
    minute, hour = lines.pop().splitlines()[1].split()[:2]
    assert 120 <= int(hour) * 60 + int(minute) <= 240


def test_a_missed_check_is_made_up_for_once(guard: Guard, redis_server: RedisServer) -> None:
    """What was never run since its last scheduled time is due; what ran, even if it failed, is not."""
    guard.configure(job(redis_server, None, None, "retries = 0"))
    assert guard("check-redis", "--if-due").code == 1
    again = guard("check-redis", "--if-due")
    assert (again.code, again.out, again.err) == (0, "", "")
    assert len(guard.history()) == 1
    week = {"PYTHONPATH": str(Path(__file__).parent / "programs"), "RG_CLOCK_SHIFT": str(8 * 86400)}
    assert guard("check-redis", "--if-due", environ=week).code == 1
    assert len(guard.history()) == 2


def in_a_namespace(directory: Path, script: str) -> Done:
    """Run a shell script where the crontabs and /run are the test's own: the host's stay untouched."""
    if os.geteuid() != 0:
        pytest.skip("only root can have a spool of its own")
    find_program("cron")
    mounts = "mount -t tmpfs -o mode=1730,gid=crontab t /var/spool/cron/crontabs && mount -t tmpfs t /run && "
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", mounts + script]
    environ = {"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8"}
    done = subprocess.run(command, env=environ, cwd=directory, capture_output=True, text=True, check=False, timeout=110)
    return Done(done.returncode, done.stdout, done.stderr)


def test_the_real_crontab_takes_and_gives_back_our_block(guard: Guard) -> None:
    """Debian's own, with a foreign line in Latin-1."""
    guard.configure('[targets.web]\nprogram = "x.py"\n')
    words = f"{sys.executable} -m restart_guard -c {guard.config}"
    done = in_a_namespace(
        guard.directory,
        f"printf '0 5 * * * x \\351\\n' | crontab - && crontab -l > before && {words} install-timer && "
        f"crontab -l > during && {words} uninstall-timer && crontab -l > after && cmp before after && wc -l < during",
    )
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1].strip() == "4"


def story(folder: Path) -> str:
    (folder / "story.sh").write_text(
        f'cd "$(dirname "$0")" || exit 1\nrun() {{ {sys.executable} -m restart_guard -c "$PWD/config.toml" "$@"; }}\n'
        "run install-timer && run start && kill -9 $(cat server*/service.py.pid) && cron || exit 1\n"
        "for i in $(seq 80); do sleep 1; run status && break; done\nrun history\n"
    )
    return 'exec sh "$HOME/story.sh"'


@pytest.mark.slow
def test_a_real_cron_brings_back_a_killed_program(guard: Guard) -> None:
    """In a folder with a space, a quote and a percent sign, with cron's bare environment; the error log stays empty."""
    folder = guard.directory / "a b's 100%"
    folder.mkdir()
    inner = Guard(folder)
    service = Service(inner)
    try:
        inner.configure(service.section() + '[timer]\nlog_dir = "logs"\n')
        done = in_a_namespace(folder, story(folder))
        assert "relaunched" in done.out, done
        assert (folder / "logs/crontab_error.log").read_text() == ""
    finally:
        service.end()


def test_the_example_is_what_install_timer_writes(tmp_path: Path) -> None:
    """crontab.example, for a checkout in /opt/irm with a watch."""
    project = tmp_path / "irm"
    shutil.copytree(ROOT / "sbin", project / "sbin")
    shutil.copytree(ROOT / "restart_guard", project / "restart_guard", ignore=shutil.ignore_patterns("__pycache__"))
    (project / ".venv/bin").mkdir(parents=True)
    cron = Cron(project)
    cron.configure('[targets.web]\nprogram = "x.py"\n[checks.a]\nkeys = ["k"]\n[timer]\nlog_dir = "logs"\n')
    # The interpreter stands where a venv of the checkout would have it; its packages are this one's.
    (project / ".venv/bin/restart-guard").touch(mode=0o755)
    python = str(project / ".venv/bin/python")
    source = f"import sys; sys.executable = {python!r}; from restart_guard.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", source, "-c", str(cron.config), "install-timer", "--watch"],
        env=cron.environ | {"PYTHONPATH": str(project)}, cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert cron.crontab.read_text().replace(str(project), "/opt/irm") == (ROOT / "crontab.example").read_text()


def test_the_scripts_work_from_anywhere(guard: Guard) -> None:
    """By an absolute path from /, through a link, with cron's bare environment; arguments are passed on."""
    project = guard.directory / "project"
    shutil.copytree(ROOT / "sbin", project / "sbin")
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/bin/restart-guard").symlink_to(Path(sys.executable).with_name("restart-guard"))
    inner = Guard(project)
    service = Service(inner)
    inner.configure(service.section())
    bare = {"HOME": str(guard.directory), "LOGNAME": "x", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    link = guard.directory / "link.sh"

    def run(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        link.unlink(missing_ok=True)
        link.symlink_to(project / "sbin" / name)
        command = [str(project / "sbin" / name if name == "kill.sh" else link), *arguments]
        return subprocess.run(command, env=bare, cwd="/", capture_output=True, text=True, check=False)

    try:
        assert run("start.sh", "web").returncode == 0
        assert len(service.pids()) == 1
        assert run("kill.sh").returncode == 0
        assert "relaunched" in run("restart.sh").stdout
        assert run("stop.sh", "--timeout", "5s").returncode == 0
        assert service.pids() == []
        assert "there is nothing to check" in run("restart_get_redis.sh").stderr
        timer = run("install_timer.py", "--backend", "print")
        assert f"-c {project}/config.toml restart >> {project}/state/logs/restart.log" in timer.stdout
    finally:
        service.end()
