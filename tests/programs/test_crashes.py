"""When a dead program is launched again: at once, then later and later, never out of reach. And the words for it."""

import os
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restart_guard.config.options import Backoff
from restart_guard.config.values import parse_environment, parse_place
from restart_guard.durations import Duration
from restart_guard.host.family import Ending, successor
from restart_guard.host.identity import Facts, Look, ProcessMatcher, oldest_top
from restart_guard.journal.incident import Incident
from restart_guard.programs import crashes
from restart_guard.programs.crashes import Crashes, Death
from restart_guard.programs.messages import CrashLoop, keeps_dying, well_again
from tests.conftest import Guard
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import wait_until
from tests.support.services import Service

USUAL = Backoff()


def test_the_usual_delays() -> None:
    """At once, then 1, 2, 4 … 300 seconds from launch to launch."""
    relaunches, delays = Crashes(), []
    for _ in range(11):
        relaunches = crashes.launched(relaunches, USUAL, by_hand=False, at=1000.0)
        delays.append(crashes.next_try_s(relaunches, USUAL, now=1000.0))
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert crashes.launched(relaunches, USUAL, by_hand=True, at=1000.0) == Crashes()
    assert crashes.next_try_s(Crashes(), USUAL, now=1000.0) == 0


@given(st.integers(0, 10**9), st.floats(0, 1e9), st.floats(0, 1e9))
def test_never_out_of_reach(count: int, next_at: float, now: float) -> None:
    """Whatever was remembered, damaged or of another boot: no wait is longer than the longest delay."""
    assert 0 <= crashes.next_try_s(Crashes(count, next_at), USUAL, now=now) <= 300
    later = crashes.launched(Crashes(count, next_at), USUAL, by_hand=False, at=now)
    assert 0 <= crashes.next_try_s(later, USUAL, now=now) <= 300.0001


def test_a_first_delay_counts_from_the_death_that_was_noticed() -> None:
    """Later looks at the same death do not extend it."""
    waits = Backoff(first=Duration(10))
    noticed = crashes.died(Crashes(), waits, at=100.0)
    assert crashes.next_try_s(noticed, waits, now=103.0) == 7
    assert crashes.died(noticed, waits, at=105.0) == noticed
    assert crashes.died(Crashes(), USUAL, at=100.0) == Crashes()


def test_ticks_keep_the_backoff_and_forget_it_when_the_program_is_well(service: Service) -> None:
    """Kept across runs and shown by status with when and why; a start by hand or a healthy run ends it."""
    service.configure("", 'restart_backoff = { base = "1h", max = "2h", reset_after = "700ms" }')
    guard = service.guard
    guard("start")
    service.kill()
    assert "relaunched" in guard("restart").out
    service.kill()
    assert guard("restart").out == ""
    shown = service.status()
    assert (shown["state"], shown["why"]) == ("backoff", "1 relaunch in a row")
    assert 3500 < shown["next_try_s"] <= 3600
    assert guard("status").code == 1
    # "1h" in the first half second, on a machine that is that fast
    assert re.search(r"^web: backoff  next try in (59m|1h)", guard("status").out)
    assert guard("start").code == 0
    assert service.status()["state"] == "running"
    service.kill()
    assert "relaunched" in guard("restart").out
    wait_until(lambda: service.status()["uptime_s"] > 0.8, what="a healthy run")
    assert guard("restart").out == ""
    service.kill()
    assert "relaunched" in guard("restart").out


def test_a_first_delay_on_real_processes(service: Service) -> None:
    """A tick does not relaunch before it is over, and status says why."""
    service.configure("", 'restart_backoff = { first = "1h", max = "1h" }')
    service.guard("start")
    service.kill()
    assert service.guard("restart").out == ""
    shown = service.status()
    assert (shown["state"], shown["why"]) == ("backoff", "waiting before its relaunch")


@pytest.mark.parametrize("how", ["ticks", "a watch"])
def test_an_alert_says_why_and_each_death_is_in_the_history(
    guard: Guard, service: Service, wecom: FakeWeCom, how: str
) -> None:
    """The end of its log without secrets, how it ended and after what time, and the command to type, which shows the
    deaths. A watch that is its parent knows the exit status."""
    service.configure("", 'restart_backoff = { base = "1ms", max = "1ms", reset_after = "1h" }', min_uptime="50ms")
    secret = "webhook-secret-0123456789"
    guard.config.write_text(f'{guard.config.read_text()}[wecom]\nwebhook = "{wecom.webhook}"\n'
                            f'[redis]\npassword = "{secret}"\n', encoding="utf-8")  # fmt: skip
    service.write(f"import time\nprint('cannot open {secret}', flush=True)\ntime.sleep(0.3)\nraise SystemExit(7)\n")
    assert guard("start").code == 0
    if how == "a watch":
        with guard.popen("watch") as watch:
            wait_until(lambda: wecom.texts, what="the alert")
            watch.terminate()
    else:
        wait_until(lambda: guard("restart") and wecom.texts, what="the alert")
    (text,) = wecom.texts
    assert "日志末尾：" in text
    assert "cannot open ***" in text
    assert secret not in text
    assert f"查看：restart-guard -c {guard.config} history --incident " in text
    deaths = [event for event in guard.history() if event.get("died")]
    assert deaths
    assert {event["status"] for event in deaths} == {"failure"}
    if how == "a watch":
        assert "最近一次退出：退出状态 7，运行了 " in text
        assert deaths[0]["exit_status"] == 7
        assert 0.2 < deaths[0]["lived_s"] < 5
    else:
        assert "原因不明，最多运行了 " in text
    number = text.rpartition("--incident ")[2].split()[0]
    assert guard("history", "--incident", number).out.count("\tdied\t") >= 3


def test_a_program_that_cannot_be_looked_after_is_news_once(guard: Guard, service: Service, wecom: FakeWeCom) -> None:
    """A tick can neither see it run nor relaunch it: one event, one alert, and one message when it is well again."""
    service.configure("", 'restart_backoff = { base = "1ms", max = "1ms", reset_after = "100ms" }')
    guard.config.write_text(f'{guard.config.read_text()}[wecom]\nwebhook = "{wecom.webhook}"\n', encoding="utf-8")
    service.lock.mkdir()
    for _ in range(3):
        assert guard("restart").code == 1
    wait_until(lambda: wecom.texts, what="the alert")
    assert len(wecom.texts) == 1
    assert "【故障】程序 web 无法看护，需要人工处理" in wecom.texts[0]
    assert [event["status"] for event in guard.history()] == ["failure"]
    for pid in service.pids():
        os.kill(pid, signal.SIGKILL)
    service.lock.rmdir()
    guard("start")
    wait_until(lambda: guard("restart").code == 0 and len(wecom.texts) == 2, what="the message that it is well")
    assert "【恢复】" in wecom.texts[1]


def test_the_words_of_an_alert_fit_and_say_what_matters() -> None:
    """Name, count, host, reason and log in Chinese and English, at most 2,048 bytes whatever a program says."""
    at = datetime(2026, 11, 21, 2, 0, 15, tzinfo=UTC)
    incident = Incident("abcd1234", at - timedelta(minutes=5), 3, 1, at)
    loop = CrashLoop("网站", 3, "退出 " * 2000, log="/日志/web.log")
    text = keeps_dying(loop, incident, language="zh", host="h", at=at)
    assert text.startswith(
        "【故障】程序 网站 反复退出：已连续重启 3 次，仍会继续尝试 | h\n时间：2026-11-21 02:00:15 +00:00\n"
    )
    assert len(text.encode()) <= 2048
    assert text.endswith("编号 abcd1234")
    told = keeps_dying(
        CrashLoop(
            *("web", 1, "relaunched, pid 7", Death(-9, 125.0, is_seen=True), "/log"),
            log_lines=("first", "<@all> last"), next_try_s=4.0, command="restart-guard history",
        ),
        incident, language="en", host="h", at=at,
    )  # fmt: skip
    assert told.splitlines() == [
        "[DOWN] program web keeps dying: relaunched 1 time in a row, and it goes on | h",
        "time: 2026-11-21 02:00:15 +00:00",
        "last death: signal SIGKILL, after 2m5s",
        "next try: not before 4s",
        "log: /log",
        "last: relaunched, pid 7",
        "the end of its log:",
        "first",
        "< @all> last",
        "look: restart-guard history",
        "incident abcd1234",
    ]
    again = well_again("web", incident, uptime_s=61, language="en", host="h", at=at)
    assert again.startswith("[UP] program web has been up for 1m1s; it is well again after 5m | h\n")


def facts(pid: int, parent: int, session: int) -> Facts:
    return Facts(pid, "x", "S", parent, session, session, pid)


MASTER, WORKERS = facts(10, 1, 10), [facts(11, 10, 10), facts(12, 10, 10)]
ORPHANS = [facts(11, 1, 10), facts(12, 1, 10)]
UPGRADED = [facts(20, 1, 10), facts(21, 20, 10)]
DAEMON = [facts(30, 1, 30)]


@pytest.mark.parametrize(
    ("left", "ending", "pid"),
    [
        (ORPHANS, Ending(-9), None),
        (ORPHANS, Ending(-9, soon=False), None),
        (ORPHANS, Ending(None), None),
        (ORPHANS, Ending(None, soon=False), None),
        (ORPHANS[:1], Ending(None), None),
        (ORPHANS[:1], Ending(None, soon=False), None),
        ([*ORPHANS, *UPGRADED], Ending(-9), None),  # killed before it had handed over
        (UPGRADED, Ending(None, soon=False), 20),
        (UPGRADED, Ending(0, soon=False), 20),
        (UPGRADED, Ending(-15, soon=False), 20),
        ([*UPGRADED, ORPHANS[0]], Ending(0, soon=False), 20),  # a worker that still drains
        (ORPHANS[:1], Ending(0), 11),  # a launcher's only process
        (DAEMON, Ending(0), 30),
        (DAEMON, Ending(None), None),
        (DAEMON, Ending(1), None),
        (DAEMON, Ending(None, soon=False), None),
        ([*DAEMON, facts(31, 30, 30)], Ending(None), 30),
        ([], Ending(0), None),
    ],
)
def test_what_goes_on_as_the_program(left: list[Facts], ending: Ending, pid: int | None) -> None:
    """A launcher's daemon and a master after an upgrade do; the worker of a dead master never does."""
    found = successor(left, ending, lambda _: "/bin/x")
    assert (found and found.pid) == pid


def test_of_a_master_with_workers_the_master_counts() -> None:
    """Also when it is listed last."""
    assert oldest_top([*WORKERS, MASTER]) == MASTER


@pytest.mark.process
@given(
    st.lists(st.text(), max_size=6), st.none() | st.text(min_size=1), st.sampled_from(["auto", "argv", "exe", "cwd"])
)
def test_any_process_can_be_looked_at(argv: list[str], directory: str | None, way: str) -> None:
    """Whatever a process calls itself: an answer, never an error."""
    words = [word.replace("\0", "") for word in argv]
    cwd = None if directory is None else Path(directory.replace("\0", "x"))
    found = Look(words, None, cwd).is_program(
        ProcessMatcher(Path("/srv/server.py"), lambda: frozenset({"python"}), way)
    )
    assert found in (True, False, None)


@given(st.text())
def test_any_environment_file_is_read_or_refused(text: str) -> None:
    """Never a traceback, and never a word of its content in the reason."""
    try:
        found = parse_environment(text)
    except ValueError as error:
        assert str(error).startswith("line ")
        return
    assert all(name.isidentifier() and "\0" not in value for name, value in found.items())


@given(st.text())
def test_any_place_is_read_or_refused(text: str) -> None:
    """No text gives an empty host or a port that cannot be one."""
    try:
        host, port = parse_place(text)
    except ValueError:
        return
    assert host
    assert 0 < port < 65536
