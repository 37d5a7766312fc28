"""The timer: our block in a crontab, by a fake crontab(1), by the real one, and run by a real cron daemon."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restart_guard import clock
from restart_guard.errors import GuardError
from restart_guard.journal import due
from restart_guard.journal.journal import Event, Journal
from restart_guard.timer.crontab_block import LONGEST, bites, line, lines_of, quoted, with_block, without_block
from restart_guard.timer.jobs import Job
from restart_guard.timer.schedule import Schedule
from restart_guard.timer.systemd_unit import on_calendar, units
from tests.conftest import Database, Done, Guard, job
from tests.support.servers import RedisServer, find_program
from tests.support.services import PROGRAMS, Service

ROOT = Path(__file__).parents[2]
NAME = "/home/you/config.toml"
LINES = ["* * * * * tick", "0 2 * * 1 check"]

FAKE = """#!/bin/sh
# A crontab(1) whose spool is the file $RG_CRONTAB; $RG_TROUBLE makes it fail or lie.
case "$RG_TROUBLE,$1" in
fail,-l) echo "you are not allowed to use this program" >&2; exit 1 ;;
refuse,-) cat >/dev/null; echo "bad minute" >&2; exit 1 ;;
lose,-) cat >/dev/null; exit 0 ;;
changing,-l) date +%N >> "$RG_CRONTAB" ;;
dcron,-r) echo "crontab: invalid option -- 'r'" >&2; exit 2 ;;
bcron,-) echo "bcrontab: Fatal: Could not read '-': No such file or directory" >&2; exit 111 ;;
esac
case $1 in
-l) [ -s "$RG_CRONTAB" ] || { echo "${RG_NONE:-no crontab for you}" >&2; exit "${RG_CODE:-1}"; }; cat "$RG_CRONTAB" ;;
-|/dev/stdin) cat > "$RG_CRONTAB" ;;
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
    installed = with_block(content, NAME, LINES)
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
    ],
)
def test_a_damaged_crontab_is_refused(content: bytes, told: str) -> None:
    """Missing, doubled or swapped markers change nothing and are reported."""
    with pytest.raises(GuardError, match=told):
        with_block(content, NAME, LINES)
    with pytest.raises(GuardError, match=told):
        without_block(content, NAME)


def test_lines_that_cron_cannot_take_are_refused() -> None:
    """Lines that are too long and paths that no cron can quote raise GuardError."""
    with pytest.raises(GuardError, match="too long"):
        line(Job("tick", "* * * * *", ("x" * LONGEST,), Path("/log"), Path("/log")), schedule="* * * * *")
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
    assert cron("uninstall-timer").out.endswith("No timer is installed.\n")


def findings(cron: Cron, **environ: str) -> dict[str, str]:
    """What doctor says of the timer: each finding and its level."""
    found = cron("doctor", "--json", environ=environ).json
    about = ("timer: ", "check a: ")
    return {one["what"].removeprefix("timer: "): one["status"] for one in found if one["what"].startswith(about)}


def test_doctor_knows_the_timer(cron: Cron) -> None:
    """No block, never a tick, a tick, a late tick, a block of another config: each told."""
    assert findings(cron)["the crontab has no lines of this config"] == "warn"
    cron("install-timer")
    assert findings(cron)["3 lines in the crontab; the tick never ran"] == "warn"
    cron("restart")
    assert [level for what, level in findings(cron).items() if "crontab, the last tick " in what] == ["ok"]
    later = {"PYTHONPATH": str(PROGRAMS), "RG_CLOCK_SHIFT": "3600"}
    assert any(what.startswith("3 lines in the crontab; the last tick was 1h") for what in findings(cron, **later))
    cron.configure(cron.config.read_text().partition("\n")[2].replace('"logs"', '"elsewhere"'))
    found = findings(cron)
    assert found["the installed cron lines are out of date"] == "warn"
    assert found[f"the log folder {cron.directory}/elsewhere is missing or not writable, so no job can start"]
    assert any("crontab -l failed" in what for what in findings(cron, RG_TROUBLE="fail"))


def test_doctor_sees_what_keeps_our_lines_from_running(cron: Cron) -> None:
    """Assignments above the block, our command outside of it, an interpreter that is gone; never ran, ran, due."""
    assert cron("install-timer").code == 0
    assert any(what.startswith("check a: first due ") for what in findings(cron))
    assert cron("check-redis").code == 1
    assert any(what.startswith("check a: ran last ") and "(failure), next due" in what for what in findings(cron))
    text = cron.crontab.read_text()
    (tick,) = [one for one in text.splitlines() if " restart >> " in one]
    cron.crontab.write_text(f"SHELL=/usr/bin/fish\nCRON_TZ=Europe/Berlin\n{tick}\n{text}")
    found = findings(cron)
    assert found["SHELL=/usr/bin/fish above our block: its lines are written for sh"] == "warn"
    assert found["CRON_TZ=Europe/Berlin above our block: cronie runs its lines by that zone's clock"] == "warn"
    assert found[f"outside our block another line runs it too: {tick}"] == "warn"
    cron.crontab.write_text(text.replace(sys.executable.rpartition("/")[0], "/gone/bin"))
    assert findings(cron)["/gone/bin/restart-guard cannot be run"] == "fail"


def test_assignments_that_bite() -> None:
    """The last one of a name counts; what is harmless is not told of."""
    assert (
        bites(["SHELL=/bin/sh", "MAILTO=me", "PATH=/usr/local/bin:/usr/bin:/bin", "# CRON_TZ=UTC", "1 2 * * * A=b x"])
        == []
    )
    assert bites(["SHELL=/usr/bin/fish", "SHELL = '/bin/bash'"]) == []
    assert [told.partition("=")[0] for told in bites(["PATH=$HOME/bin", '"HOME"=/x', "RANDOM_DELAY=30"])] == [
        "PATH", "HOME", "RANDOM_DELAY",
    ]  # fmt: skip


def test_other_crons_speak_otherwise(cron: Cron) -> None:
    """dcron has no -r, bcron takes no crontab from "-" and ends with 111 if there is none."""
    bcron = {"RG_NONE": "bcrontab: Fatal: Crontab does not exist", "RG_CODE": "111", "RG_TROUBLE": "bcron"}
    for environ in ({"RG_TROUBLE": "dcron"}, bcron):
        done = cron("install-timer", environ=environ)
        assert done.code == 0, done
        assert b"BEGIN restart-guard" in cron.crontab.read_bytes()
        assert cron("uninstall-timer", environ=environ).code == 0
        assert not cron.crontab.exists() or cron.crontab.read_bytes() == b""
    assert len(list(cron.state.glob("crontab.*"))) == 4  # four within a second or two, each kept


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes to /etc/cron.d")
def test_other_backends_need_no_crontab(guard: Guard) -> None:
    """A user whom cron.allow keeps from crontab(1), or a host without it."""
    guard.configure('[targets.web]\nprogram = "x.py"\n')
    words = f"{sys.executable} -m restart_guard -c {guard.config}"
    (guard.directory / "bin").mkdir()
    (guard.directory / "bin/crontab").write_text(
        "#!/bin/sh\necho 'You (x) are not allowed to use crontab' >&2; exit 1\n"
    )
    (guard.directory / "bin/crontab").chmod(0o755)
    done = in_a_namespace(
        guard.directory,
        f"mount -t tmpfs t /etc/cron.d; PATH={guard.directory}/bin:$PATH; {words} install-timer; echo $?; "
        f"{words} install-timer --backend cron.d; echo $?; cat /etc/cron.d/*; {words} doctor; "
        f"{words} uninstall-timer; echo $?; ls /etc/cron.d | wc -l",
    )
    assert "are not allowed" in done.err
    assert done.out.startswith("1\n")
    assert " root " in done.out
    assert "1 line in /etc/cron.d" in done.out
    assert done.out.endswith("0\n0\n")


def test_a_release_that_is_linked_keeps_one_block(cron: Cron) -> None:
    """The block has the path of the link, where the operator stands; by the release's own path it is the same block."""
    release = cron.directory / "releases/1"
    release.mkdir(parents=True)
    shutil.copy(cron.config, release / "config.toml")
    link = cron.directory / "current"
    link.symlink_to(release)
    for here, shown in ((link, link), (release, link)):
        command = [sys.executable, "-m", "restart_guard", "-c", "config.toml", "install-timer", "--watch"]
        environ = cron.environ | {"PWD": str(here)}
        subprocess.run(command[: 6 + (here == release)], cwd=here, env=environ, check=True, capture_output=True)
        text = cron.crontab.read_text()
        assert text.count("# BEGIN restart-guard ") == 1
        assert f"# BEGIN restart-guard {shown}/config.toml\n" in text
        assert f"-c {here}/config.toml restart" in text
    done = subprocess.run(
        [*command[:5], "uninstall-timer"],
        cwd=release,
        env=environ | {"PWD": "/elsewhere"},
        check=True,
        capture_output=True,
    )
    assert b"Removed from" in done.stdout
    assert not cron.crontab.exists()


def test_doctor_judges_other_lines_by_what_they_run(cron: Cron) -> None:
    """Not by the config's name in them. Blocks of configs that are gone are told."""
    assert cron("install-timer").code == 0
    command = f"{sys.executable} -m restart_guard -c {cron.config}"
    harmless = [
        f"0 4 * * * cp {cron.config} /backup/",
        f"0 4 * * * {command} history --json > /tmp/h",
        f"0 4 * * * {sys.executable} -m restart_guard -c /other/config.toml restart",
        f"# * * * * * {command} restart",
    ]
    doubled = [
        f"* * * * * cd / && {command} restart",
        f"@reboot RESTART_GUARD_CONFIG={cron.config} restart-guard restart",
    ]
    gone = with_block(b"", "/gone/config.toml", ["* * * * * x"]).decode()
    cron.crontab.write_text("\n".join([*harmless, *doubled]) + "\n" + gone + cron.crontab.read_text())
    found = findings(cron)
    told = [what.split("it too: ")[1] for what in found if "it too: " in what]
    assert sorted(told) == sorted(doubled)
    assert found["the crontab has lines of ours for /gone/config.toml, which is gone"] == "warn"


def test_secrets_that_the_timer_does_not_set(cron: Cron) -> None:
    """They are in the operator's shell and not under cron, where each check would fail and no alert could go out."""
    cron.config.write_text(cron.config.read_text() + '[redis]\npassword = { env = "RG_PW" }\n')
    there = {"RG_PW": "a-long-password-01"}
    assert "The timer does not set RG_PW" in cron("install-timer", environ=there).err
    told = "a secret is in the variable RG_PW, which the timer does not set for our jobs"
    assert findings(cron, **there)[told] == "fail"
    cron.crontab.write_text("RG_PW=x\n" + cron.crontab.read_text())
    assert told not in findings(cron, **there)


def test_a_command_that_cannot_run_under_cron_is_not_installed(cron: Cron) -> None:
    """It is tried without our environment first."""
    packages = {"PYTHONPATH": f"{cron.directory}/packages:{ROOT}"}
    (cron.directory / "packages").mkdir()
    python = cron.directory / "python"
    python.write_text(
        f'#!/bin/sh\n[ -n "$PYTHONPATH" ] || {{ echo "no module" >&2; exit 1; }}\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    run = f"import sys; sys.executable = {str(python)!r}; from restart_guard.entry import run; run(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", run, "-c", str(cron.config), "install-timer"],
        env=cron.environ | packages,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert "would not run (exit status 1: no module)" in done.stderr
    assert not cron.crontab.exists()


def test_the_heartbeat_is_judged_by_its_schedule(cron: Cron) -> None:
    """A tick each ten minutes is not late after five."""
    minute = datetime.now().astimezone().minute
    slots = ",".join(str(at) for at in range(60) if at % 10 == minute % 10)  # one is just over
    cron.config.write_text(cron.config.read_text() + f'restart = "{slots} * * * *"\n')
    assert cron("install-timer").code == 0
    cron("restart")
    for minutes, level in ((5, "ok"), (25, "warn")):
        shifted = in_days(minutes / 1440)
        (found,) = [found for what, found in findings(cron, **shifted).items() if "the last tick" in what]
        assert found == level, minutes


def test_a_broken_config_can_be_uninstalled(cron: Cron) -> None:
    """Its jobs must not run on for a typing error; the old crontab, with what it holds, is for its owner only."""
    assert cron("install-timer").code == 0
    cron.config.write_text("[targets.web\n")
    done = cron("uninstall-timer", environ={"XDG_STATE_HOME": str(cron.directory / "xdg")})
    assert (done.code, done.err) == (0, "")
    assert not cron.crontab.exists()
    for state in (cron.state, cron.directory / "xdg/restart-guard"):
        (saved,) = state.glob("crontab.*")
        assert (saved.stat().st_mode & 0o777, state.stat().st_mode & 0o777) == (0o600, 0o700)


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
        ("changing", "The crontab was changed by somebody else just now"),
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
    """Less than cron's minute would be none, and is refused."""
    assert "expected at least 1m" in cron("install-timer", "--random-delay", "30s").err
    lines = {cron("install-timer", "--backend", "print", "--random-delay", "2h").out for _ in range(2)}
    assert len(lines) == 1
    minute, hour = lines.pop().splitlines()[1].split()[:2]
    assert 120 <= int(hour) * 60 + int(minute) <= 240


def test_a_missed_check_is_made_up_for_once(guard: Guard, redis_server: RedisServer) -> None:
    """A new check has missed nothing. What was not run at its last scheduled time is due; what ran, even if it failed,
    is not."""
    guard.configure(job(redis_server, None, None, "retries = 0"))
    for days, code, outcomes in ((0, 0, 0), (0, 0, 0), (8, 1, 1), (8, 0, 1), (16, 1, 2)):
        done = guard("check-redis", "--if-due", environ=in_days(days))
        assert (done.code, len(guard.history())) == (code, outcomes), days
        assert code or (done.out, done.err) == ("", "")


def test_a_missed_refresh_is_made_up_for_once(guard: Guard, redis_server: RedisServer, database: Database) -> None:
    """As a check is; a refresh without a schedule is never due."""
    section = '[refreshes.{}]\nquery = "SELECT 1, 2"\nkey = "{}"\ntype = "hash"\n{}\n'
    text = section.format("weekly", "a", 'schedule = "0 1 * * 1"') + section.format("never", "b", "")
    guard.configure(job(redis_server, database.make_six_columns(), None) + text)
    for days, outcomes in ((0, 0), (8, 1), (8, 1)):
        assert guard("refresh", "--if-due", environ=in_days(days)).code == 0
        assert [event["refresh"] for event in guard.history()] == ["weekly"] * outcomes, days
    lines = guard("install-timer", "--backend", "print").out
    assert "43 * * * * " in lines
    assert " refresh --if-due >> " in lines


def in_days(days: float) -> dict[str, str]:
    return {"PYTHONPATH": str(PROGRAMS), "RG_CLOCK_SHIFT": str(days * 86400)}


@pytest.mark.parametrize(
    ("history", "missed"),
    [
        ({"seen": -200}, True),
        ({"seen": -1}, True),
        ({"seen": 1}, False),
        ({}, False),
        ({"ran": -200}, True),
        ({"ran": -20}, True),
        ({"ran": -11}, False),
        ({"ran": 0.1}, False),
        ({"ran": 0.1, "seen": -200}, False),
        ({"ran": -168, "since": -300, "tick": 0.4}, False),
        ({"ran": -168, "since": -300, "tick": 0.4, "now": 12.5}, True),
        ({"ran": -168, "since": -300, "tick": -3}, True),
        ({"ran": -168, "since": 0.2, "tick": 0.4}, True),
        ({"ran": -168, "since": -300, "tick": 0.4, "began": 0}, True),
        ({"ran": -168, "since": -300, "tick": 0.4, "began": -168}, False),
    ],
    ids=str,
)
def test_what_counts_as_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, history: dict[str, float], missed: bool
) -> None:
    """Half an hour after a weekly slot; all in hours from it. Where ticks came all along, cron was there: its own run
    may come by another clock, and is waited for half a day. One that began and has no outcome was killed."""
    slot = datetime(2026, 11, 23, 2, tzinfo=UTC)

    def at(hours: float) -> datetime:
        return slot + timedelta(hours=hours)

    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr(clock, "now", lambda: at(history.get("now", 0.5)))
    scheduled = due.Scheduled("check", "a", Schedule("0 2 * * 1", "timer.check_redis"))
    facts = {"seen": "check.a.seen", "began": "check.a.began", "since": "tick.since", "tick": "tick"}
    with Journal.open(tmp_path) as journal:
        for name, fact in facts.items():
            if name in history:
                journal.remember(fact, clock.stamp(at(history[name])))
        if "ran" in history:
            with journal.transaction():
                journal.append(Event("r", at(history["ran"]), "check", "a", "failure", "x", {}), [])
        assert due.has_missed(journal, scheduled) is missed
        assert due.has_missed(journal, scheduled) is missed


def test_the_catch_up_is_not_due_with_the_check(guard: Guard) -> None:
    """Else both would begin in the same second, each week."""
    guard.configure('[checks.a]\nkeys = ["k"]\n[timer]\ncheck_redis = "23 2 * * 1"\n')
    lines = guard("install-timer", "--backend", "print").out.splitlines()
    assert [one.split(" ")[0] for one in lines] == ["*", "23", "53"]


def test_checks_have_schedules_of_their_own(guard: Guard) -> None:
    """A line for those with the usual time, which names them, and one for each other."""
    guard.configure(
        '[checks.a]\nkeys = ["k"]\n[checks.b]\nkeys = ["k"]\nschedule = "30 6 * * *"\n[checks.c]\nkeys = ["k"]\n'
    )
    lines = guard("install-timer", "--backend", "print").out.splitlines()
    assert [" ".join(one.split()[:5]) for one in lines[1:]] == [
        "0 2 * * 1",
        "30 6 * * *",
        "23 * * * *",
    ]
    assert [one.split(" >> ")[0].split("config.toml ")[1] for one in lines[1:]] == [
        "check-redis a c", "check-redis b", "check-redis --if-due",
    ]  # fmt: skip


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


def test_the_real_crontab_shows_cr_as_two_letters(guard: Guard) -> None:
    """A line that really ends with these letters is kept; one that ends with CR would be damaged, and is refused."""
    guard.configure('[targets.web]\nprogram = "x.py"\n')
    words = f"{sys.executable} -m restart_guard -c {guard.config}"
    done = in_a_namespace(
        guard.directory,
        "printf '0 5 * * * echo a\\\\r\\n' | crontab - && crontab -l > before && "
        f"{words} install-timer && {words} uninstall-timer && crontab -l > after && cmp before after && cat after && "
        f"printf '0 5 * * * x\\r\\n' | crontab - && {words} install-timer; echo $?",
    )
    assert done.out.splitlines()[-2:] == ["0 5 * * * echo a\\r", "1"], done
    assert "lines that end with CR" in done.err


def test_doctor_names_a_cron_by_another_clock(guard: Guard) -> None:
    """A container with -e TZ=… under Debian's cron, which keeps it for itself; and a zone that was changed since."""
    guard.configure('[checks.a]\nkeys = ["k"]\n')
    words = f"{sys.executable} -m restart_guard -c {guard.config}"
    find_program("cron")
    done = in_a_namespace(
        guard.directory,
        f"cp -a /etc etc && mount --bind etc /etc && rm -rf /etc/cron.d; {words} -q install-timer; "
        f"TZ=Asia/Tokyo cron; {words} doctor; kill $(cat /run/crond.pid); rm -f /run/crond.pid; sleep 0.2; "
        f"cron; sleep 1.2; ln -sfn /usr/share/zoneinfo/Asia/Tokyo /etc/localtime; {words} doctor",
    )
    assert "cron runs by TZ=Asia/Tokyo, our jobs by /etc/localtime" in done.out, done
    assert done.out.count("/etc/localtime was changed after cron was started") == 1, done


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


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def verify(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, str]], "subprocess.CompletedProcess[str]"]:
    """systemd-analyze verify on unit files."""
    find_program("systemd-analyze")
    folder = tmp_path_factory.mktemp("units")

    def run(files: dict[str, str]) -> "subprocess.CompletedProcess[str]":
        for name, text in files.items():
            (folder / name).write_text(text)
        command = ["systemd-analyze", "verify", "--man=no", *(str(folder / name) for name in files)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS, st.sampled_from(["tick", "watch", "standby", "check"]), st.booleans())
def test_systemd_takes_our_units(
    verify: Callable[[dict[str, str]], "subprocess.CompletedProcess[str]"], word: str, name: str, user: bool
) -> None:
    """Whatever printable characters the paths and the names have; a watch or a standby is a service that stays."""
    words = ("/bin/sh", "-c", f"/x/{word} %n $HOME \"'\\.toml", "watch", "--wait", "--for", "1m")
    job = Job(name, "0 2 * * 1", words, Path(f"/logs/{word} 100%"), Path("/e"), weekly=name == "check")
    files = units(job, "restart-guard-test", title=f"/x/{word}%", user_manager=user, random_delay_s=600)
    done = verify(files)
    assert (done.returncode, done.stderr) == (0, ""), files
    service = files["restart-guard-test.service"]
    assert "KillMode=process\n" in service
    stays = name in ("watch", "standby")
    assert ("--for" in service, "Restart=always" in service) == (not stays, stays)
    assert ("Persistent=true\n" in files.get("restart-guard-test.timer", "")) == (name == "check")


@pytest.mark.process
@settings(max_examples=25, deadline=None)
@given(
    st.tuples(
        st.sampled_from(["*", "0", "*/7", "5,10-12"]),
        st.sampled_from(["*", "2", "*/5", "8-18/3"]),
        st.sampled_from(["*", "1", "*/10", "31", "28-31", "1-31"]),
        st.sampled_from(["*", "2", "1-6", "jan,dec"]),
        st.sampled_from(["*", "1", "7", "mon-fri", "0,3", "*/2", "0-6"]),
    )
)
def test_systemd_and_cron_mean_the_same_moments(fields: tuple[str, ...]) -> None:
    """The next five of any schedule, by systemd-analyze calendar and by cronsim, which follows Debian's cron."""
    find_program("systemd-analyze")
    schedule = " ".join(fields)
    try:
        wanted = list(islice(CronSim(schedule, datetime(2026, 11, 21, tzinfo=UTC)), 5))
    except CronSimError:
        return  # 31 February
    found: set[str] = set()
    for moments in on_calendar(schedule):
        done = subprocess.run(
            ["systemd-analyze", "calendar", "--iterations=5", "--base-time=2026-11-21 00:00:00 UTC", moments],
            env={"PATH": os.environ["PATH"], "TZ": "UTC", "LC_ALL": "C"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found |= set(re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", done.stdout))
    assert sorted(found)[:5] == [f"{moment:%Y-%m-%d %H:%M:%S}" for moment in wanted]


def test_what_systemd_cannot_say_is_told() -> None:
    """Cron's special days have no systemd form and are refused by name."""
    for schedule in ("0 0 L * *", "0 0 * * mon#2"):
        with pytest.raises(GuardError, match="cannot say this schedule"):
            on_calendar(schedule)


def test_systemd_units_come_and_go(guard: Guard) -> None:
    """As files that are enabled; another backend beside them is refused; doctor tells that systemd is not at work."""
    find_program("systemctl")
    guard.configure('[targets.web]\nprogram = "x.py"\n[checks.a]\nkeys = ["k"]\n')
    run = f"{sys.executable} -m restart_guard -c {guard.config}"
    etc = "/etc/systemd/system"
    done = in_a_namespace(
        guard.directory,
        f'mount -t tmpfs t {etc} && {run} install-timer --backend systemd --dry-run && [ -z "$(ls {etc})" ] && '
        f"{run} install-timer --backend systemd --watch --random-delay 10m && (cd {etc} && find . -type l | sort && "
        f"systemd-analyze verify *.timer *.service) && ! {run} install-timer && {run} doctor; "
        f"{run} install-timer --backend systemd && ls {etc}/*/ && {run} install-timer --backend systemd && "
        f"{run} uninstall-timer && find {etc} -type f -o -type l",
    )
    assert done.code == 0, done
    assert "+KillMode=process" in done.out
    links = re.findall(r"^\./(.*)$", done.out, re.MULTILINE)
    assert [re.sub(r"-[0-9a-f]{8}-", "-ID-", link) for link in links] == [
        "multi-user.target.wants/restart-guard-ID-watch.service",
        "timers.target.wants/restart-guard-ID-check.timer",
        "timers.target.wants/restart-guard-ID-tick.timer",
    ]
    assert "the units are enabled and start at the next boot" in done.err
    assert "already installed by --backend systemd" in done.err
    assert "5 units of systemd; the tick never ran" in done.out
    assert "out of date" not in done.out
    assert "fail  timer: systemd does not run on this host" in done.out
    assert "already installed" in done.out
    removed = done.out.splitlines()[-1]
    assert "Removed from: " in removed
    assert "-watch" not in removed


def test_a_file_in_cron_d(guard: Guard) -> None:
    """With the user's name, and a file name that Debian's cron reads; what is not root's is refused."""
    guard.configure('[checks.a]\nkeys = ["k"]\n')
    run = f"{sys.executable} -m restart_guard -c {guard.config}"
    done = in_a_namespace(
        guard.directory,
        f"cd /etc && mount -t tmpfs t cron.d && {run} install-timer --backend cron.d && ls cron.d && cat cron.d/* && "
        f"{run} install-timer --backend cron.d && {run} doctor; {run} uninstall-timer && ls cron.d && "
        f"chown nobody {guard.config} && {run} install-timer --backend cron.d",
    )
    assert "belongs to user nobody, and as root it must be root's" in done.err
    assert re.search(r"^restart-guard-[0-9a-f]{8}$", done.out, re.MULTILINE)
    assert re.search(r"^0 2 \* \* 1 root /.* check-redis >> ", done.out, re.MULTILINE)
    assert "already installed" in done.out
    assert "3 lines in /etc/cron.d; the tick never ran" in done.out
    assert "out of date" not in done.out
    assert done.code == 2


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


@pytest.mark.slow
def test_the_weekly_check_runs_on_monday_at_two(guard: Guard, redis_server: RedisServer, database: Database) -> None:
    """A real cron daemon whose clock libfaketime has set to ten seconds before: a row arrives, the log is written, the
    error log stays empty, and the catch-up has nothing to make up for."""
    fake = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if fake is None:
        find_program("faketime")
    with redis_server.client() as client:
        client.set("your_data_key", '{"名": 1}')
    guard.configure(job(redis_server, database.make_six_columns(), None) + '[timer]\nlog_dir = "logs"\n')
    log, run = guard.directory / "logs/get_redis_data.log", f"{sys.executable} -m restart_guard -c {guard.config}"
    done = in_a_namespace(
        guard.directory,
        f"{run} install-timer && TZ=UTC LD_PRELOAD={fake} FAKETIME='@2026-11-23 01:59:50' cron && "
        f"for i in $(seq 60); do sleep 1; [ -s {log} ] && break; done; sleep 1; {run} check-redis --if-due",
    )
    assert done.code == 0, done
    assert "metadata: good" in log.read_text()
    assert (guard.directory / "logs/crontab_error.log").read_text() == ""
    assert database.statuses() == ["成功"]
    assert len([event for event in guard.history() if event["kind"] == "check"]) == 1


@pytest.mark.process
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


def test_a_group_is_started_too(cron: Cron) -> None:
    """Each minute, as a watch is; who leads watches the group's targets, so that --watch is about the others."""
    group = '[targets.web]\nprogram = "x.py"\n[standby]\ngroup = "g"\ntargets = ["web"]\n'

    def installed(config: str) -> list[str]:
        cron.configure(config)
        assert cron("install-timer", "--watch").code == 0
        lines = cron.crontab.read_text().splitlines()
        return [
            line.partition(" -c ")[2].partition(" ")[2].partition(" >>")[0] for line in lines if "standby.log" in line
        ]

    assert installed(group) == ["standby --for 1m"]
    assert " watch " not in cron.crontab.read_text()
    assert installed(f'{group}[targets.api]\nprogram = "y.py"\n') == ["standby --for 1m"]
    assert " watch --wait --for 1m api >>" in cron.crontab.read_text()


BARE = {"LOGNAME": "x", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}


@pytest.fixture
def project(guard: Guard) -> Guard:
    """A checkout with scripts, a config and a venv of its own, in which restart-guard is."""
    folder = guard.directory / "project"
    shutil.copytree(ROOT / "sbin", folder / "sbin")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (packages,) = (folder / ".venv/lib").glob("python*/site-packages")
    # The packages of this environment, and not those of the checkout's place.
    (packages / "here.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return Guard(folder)


def script(command: Sequence[str | Path], home: Path, cwd: str | Path = "/", **environ: str) -> Done:
    """Run a script with as little as cron gives it."""
    done = subprocess.run(
        command, env={**BARE, "HOME": str(home), **environ}, cwd=cwd, capture_output=True, text=True, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_the_scripts_work_from_anywhere(project: Guard) -> None:
    """By an absolute path from /, through a link, with cron's bare environment; arguments are passed on."""
    service = Service(project)
    project.configure(service.section())
    link = project.directory.parent / "link.sh"

    def run(name: str, *arguments: str) -> Done:
        link.unlink(missing_ok=True)
        link.symlink_to(project.directory / "sbin" / name)
        return script([project.directory / "sbin" / name if name == "kill.sh" else link, *arguments], link.parent)

    try:
        assert run("start.sh", "web").code == 0
        assert len(service.pids()) == 1
        assert run("kill.sh").code == 0
        assert "relaunched" in run("restart.sh").out
        assert run("stop.sh", "--timeout", "5s").code == 0
        assert service.pids() == []
        assert "there is nothing to check" in run("restart_get_redis.sh").err
        timer = run("install_timer.py", "--backend", "print")
        directory = project.directory
        assert f"-c {directory}/config.toml restart >> {directory}/state/logs/restart.log" in timer.out
    finally:
        service.end()


def test_the_scripts_say_what_mends_them(project: Guard) -> None:
    """Without exec bits, moved with their venv, copied away, with a relative config, or with nothing installed."""
    project.configure('[targets.web]\nprogram = "x.py"\n')
    home = project.directory.parent
    for path in (project.directory / "sbin").iterdir():
        path.chmod(0o644)
    status = "web: stopped"
    moved = project.directory.rename(home / "moved")
    (home / "run_status.sh").symlink_to(moved / "sbin/run.sh")
    assert script(["sh", home / "run_status.sh", "status"], home).out.startswith(status)
    assert " web: " in script(["sh", moved / "sbin/start.sh"], home).err  # there is no such program
    relative = script(["sh", "moved/sbin/run.sh", "status"], home, home, RESTART_GUARD_CONFIG="moved/config.toml")
    assert relative.out.startswith(status)
    shutil.copy(moved / "sbin/start.sh", home / "start.sh")
    copied = script(["sh", home / "start.sh"], home)
    assert (copied.code, "Link it instead: ln -sf" in copied.err) == (127, True)
    shutil.rmtree(moved / ".venv")
    bare = script(["sh", moved / "sbin/restart_get_redis.sh"], home)
    assert bare.code == 127
    assert bare.err.splitlines()[1:] == [
        f"    python3 -m venv {moved}/.venv", f"    {moved}/.venv/bin/pip install {moved}",
    ]  # fmt: skip
    # Where the README installs it, which cron's PATH does not have.
    (home / "restart-guard/bin").mkdir(parents=True)
    (home / "restart-guard/bin/restart-guard").symlink_to(Path(sys.executable).with_name("restart-guard"))
    assert "there is nothing to check" in script(["sh", moved / "sbin/restart_get_redis.sh"], home).err
