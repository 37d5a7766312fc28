"""watch on real processes: relaunched at once, never doubled, and killing the watch harms nothing."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from restart_guard.host import process_table
from tests.conftest import Guard
from tests.support.fake_wecom import FakeWeCom
from tests.support.pipes import full_pipe
from tests.support.servers import wait_until
from tests.support.services import PROGRAMS, Service, at_work, watching

QUICK = 'restart_backoff = { base = "1ms", max = "1ms" }'

STEPS = ("watch", "actions", "launch", "pidlock", "processes", "journal_writer", "events")


def test_a_killed_program_is_back_at_once_and_journalled(service: Service) -> None:
    """Again and again; the pid lock is true each time, and the history says how each one ended."""
    service.configure("", QUICK).guard("start")
    with watching(service.guard):
        for _ in range(5):
            service.wait_for_another(service.kill())
    details = [event["detail"] for event in service.guard.history()]
    assert len([text for text in details if "relaunched, pid" in text]) == 5
    assert "signal SIGKILL after" in details[0]
    assert service.status()["restarts"] == 5


def test_killing_the_watch_harms_nothing_and_the_next_one_doubles_nothing(service: Service) -> None:
    """kill -9 of watch, then watch again: the same process, one instance, guarded as before."""
    service.configure("", QUICK).guard("start")
    with watching(service.guard) as first:
        pid = service.wait_for_another(service.kill())
        first.kill()
        first.wait()
    assert service.pids() == [pid]
    with watching(service.guard):
        assert service.pids() == [pid]
        again = service.wait_for_another(service.kill())
    assert service.pids() == [again]


def test_kill_nine_of_the_watch_at_any_step_leaves_one_instance(service: Service) -> None:
    """At a sample of all lines between a death and its record: the next tick leaves one instance and a true lock."""
    service.configure("", QUICK)
    environ = {"PYTHONPATH": str(PROGRAMS), "RG_KILL_IN": ",".join(f"programs/{name}" for name in STEPS)}
    count = service.guard.directory / "count"
    service.guard("start")
    with service.guard.popen("watch", environ=environ | {"RG_COUNT_TO": str(count)}) as process:
        wait_until(lambda: at_work(process), what="the watch")
        service.wait_for_another(service.kill())
        process.terminate()
        process.wait()
    steps = [int(line) for line in count.read_text().splitlines()]
    assert len(steps) > 150
    for step in steps[:: len(steps) // 16]:
        with service.guard.popen("watch", environ=environ | {"RG_KILL_AT": str(step)}) as process:
            wait_until(lambda: process.poll() is not None or at_work(process), what="the watch or its end")
            if process.poll() is None:
                service.kill()
                wait_until(lambda: process.poll() is not None or service.pids(), what="its end or a relaunch")
            process.kill()
        assert service.guard("restart").code == 0
        service.guard("kill")  # so that its backoff is over
        assert service.guard("restart").code == 0
        assert len(service.pids()) == 1, step
        assert service.lock.read_text() == f"{service.pid()}\n"


def test_start_and_stop_by_hand_are_noticed(service: Service) -> None:
    """What is started during a watch is watched; what is stopped stays down; what is killed comes back."""
    service.configure("", QUICK)
    with watching(service.guard):
        assert service.guard("start").code == 0
        pid = service.wait_for_another(service.kill())
        assert service.guard("kill").code == 0
        service.wait_for_another(pid)
        assert service.guard("restart", "--cold").code == 0
        service.wait_for_another(service.kill())
        pid = service.pid()
        assert service.guard("stop").code == 0
        assert service.guard("restart").out == ""
        assert service.pids() == []
        wait_until(lambda: process_table.facts(pid) is None, what="the watch to collect its child")
        assert service.guard("start").code == 0
        service.wait_for_another(service.kill())


def test_no_rival_appears_while_a_program_drains(service: Service) -> None:
    """Three seconds of draining, a watch and a tick each 100 ms: never two, and down it stays."""
    service.configure("slow-stop 3", QUICK).guard("start")
    service.ready()
    with watching(service.guard), service.guard.popen("stop") as stopping:
        while stopping.poll() is None:
            with service.guard.popen("restart") as tick:
                assert tick.communicate()[0] == ""
            assert len(service.pids()) <= 1
        out, _ = stopping.communicate()
    assert stopping.returncode == 0
    assert "web: stopped in 3" in out
    assert service.pids() == []


def test_one_watch_a_config(service: Service) -> None:
    """A second one exits with 75; one with --wait takes over when the first leaves; a second that waits exits too."""
    service.configure("", QUICK).guard("start")
    guard = service.guard
    with watching(guard) as first:
        second = guard("watch")
        assert second.code == 75
        assert f"is running in another process (pid {first.pid})" in second.err
        with guard.popen("watch", "--wait") as waiting:
            held = guard.state / "locks"
            wait_until(lambda: [x for x in held.iterdir() if x.name.startswith("next-watch")], what="one that waits")
            wait_until(lambda: guard("watch", "--wait").code == 75, what="one too many")
            first.terminate()
            assert first.wait(10) == 0
            wait_until(lambda: at_work(waiting), what="the one that waited")
            service.wait_for_another(service.kill())
            waiting.terminate()
            assert waiting.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_leaves_quietly_and_its_targets_live_on(service: Service, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end the watch with exit code 0 and no output."""
    service.configure().guard("start")
    pid = service.pid()
    with service.guard.popen("watch") as process:
        wait_until(lambda: at_work(process), what="the watch")
        process.send_signal(number)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 0
    assert service.pids() == [pid]


def test_a_log_that_nobody_reads_delays_no_relaunch(service: Service) -> None:
    """With stdout and stderr in a full pipe: each death is followed by a relaunch, and SIGTERM ends the watch."""
    service.configure("", QUICK).guard("start")
    with full_pipe() as pipe, service.guard.popen("watch", output=pipe) as process:
        try:
            wait_until(lambda: at_work(process), what="the watch")
            for _ in range(3):
                service.wait_for_another(service.kill())
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_watches_hand_over_without_a_gap_or_a_double(service: Service) -> None:
    """As cron would start them: each watches for a while, the next waits; kills all along, one instance all along."""
    service.configure("", QUICK).guard("start")
    chain = [service.guard.popen("watch", "--for", "2s")]
    wait_until(lambda: at_work(chain[0]), what="the first watch")
    for _ in range(4):
        chain.append(service.guard.popen("watch", "--wait", "--for", "2s"))
        while chain[-2].poll() is None:
            service.wait_for_another(service.kill())
    service.wait_for_another(service.kill())
    for process in chain:
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_many_deaths_at_once_are_served_together(guard: Guard) -> None:
    """Twenty targets killed in one moment: all are back, each once."""
    services = [Service(guard, f"n{number}") for number in range(20)]
    try:
        guard.configure("".join(one.section("", QUICK) for one in services))
        assert guard("start").code == 0
        with watching(guard):
            killed = {one.name: one.pid() for one in services}
            for pid in killed.values():
                os.kill(pid, signal.SIGKILL)
            for one in services:
                one.wait_for_another(killed[one.name])
        assert all(len(one.pids()) == 1 for one in services)
        assert len([event for event in guard.history() if "relaunched" in event["detail"]]) == 20
    finally:
        for one in services:
            one.end()


def test_what_a_dead_master_left_behind_is_ended_first(service: Service) -> None:
    """Workers that outlive a kill -9 of their master would hold its port: they are told, ended, and not adopted."""
    service.write(
        "import os, time\n"
        "for _ in range(3):\n    if os.fork() == 0:\n        break\n"
        "print('ready', flush=True)\nwhile True:\n    time.sleep(60)\n"
    ).configure("", QUICK)
    service.guard("start")
    wait_until(lambda: service.log.read_text().count("ready") == 4, what="master and workers")
    master = int(service.lock.read_text())
    before = set(service.pids())
    assert len(before) == 4
    assert service.status()["pid"] == master
    with watching(service.guard):
        os.kill(master, signal.SIGKILL)
        wait_until(lambda: len(set(service.pids()) - before) == 4, what="a new master with workers")
        assert not before & set(service.pids())
    assert "ended orphans" in service.guard.history()[0]["detail"]


def test_a_launcher_whose_daemon_lives_on_is_no_death(service: Service) -> None:
    """A program that goes into the background at its start is followed there, by start and by watch."""
    service.write(
        "import os, time\n"
        "if os.fork():\n    time.sleep(0.3)\n    os._exit(0)\n"
        "os.setsid()\nprint('ready', flush=True)\nwhile True:\n    time.sleep(60)\n"
    )
    service.configure("", QUICK, min_uptime="1s")
    assert service.guard("start").code == 0
    daemon = service.pid()
    assert service.lock.read_text() == f"{daemon}\n"
    with watching(service.guard):
        os.kill(daemon, signal.SIGKILL)
        wait_until(lambda: len(service.pids()) == 2, what="launcher and daemon")
        wait_until(lambda: len(service.pids()) == 1, what="the launcher's end")
        wait_until(lambda: service.lock.read_text() == f"{service.pid()}\n", what="the lock of the daemon")


def test_a_crash_loop_slows_down_and_is_told_once_and_its_end_once(
    guard: Guard, service: Service, wecom: FakeWeCom
) -> None:
    """First relaunch at once, then later and later; status says when; one alert, one message when it is well."""
    good = service.program.read_text()
    service.write("import time\ntime.sleep(0.2)\nraise SystemExit('配置错误')\n")
    options = 'restart_backoff = { base = "300ms", max = "600ms", reset_after = "2s" }'
    guard.configure(service.section("", options) + f'[wecom]\nwebhook = "{wecom.webhook}"\n')
    assert guard("start").code == 0
    with watching(guard):
        wait_until(lambda: service.status()["state"] == "backoff", what="backoff")
        wait_until(lambda: wecom.texts, what="the alert")
        shown = wait_until(lambda: (s := service.status()) and s["next_try_s"] and s, what="a next try")
        assert 0 < shown["next_try_s"] <= 0.6
        assert "in a row" in shown["why"]
        wait_until(lambda: service.status()["restarts"] >= 6, what="it never gives up")
        service.write(good)
        wait_until(lambda: guard("restart").code == 0 and len(wecom.texts) == 2, what="the end of the incident")
    assert "【故障】程序 web 反复退出：已连续重启 3 次" in wecom.texts[0]
    assert "exit status 1" in wecom.texts[0]
    assert "【恢复】程序 web 已稳定运行" in wecom.texts[1]
    assert guard.history()[0]["detail"] == "is well again"


def test_a_journal_that_cannot_be_written_delays_no_relaunch(service: Service) -> None:
    """The error is told; the program is back all the same."""
    service.configure("", QUICK).guard("start")
    state = service.guard.state
    for path in state.glob("journal.db*"):
        path.unlink()
    (state / "journal.db").mkdir()
    with service.guard.popen("watch") as process:
        wait_until(lambda: at_work(process), what="the watch")
        service.wait_for_another(service.kill())
        service.wait_for_another(service.kill())
        process.terminate()
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "journal" in err
    assert "Traceback" not in err


def _in_the_way(journal: Path) -> bool:
    """Put a folder in the journal's place; the watch may just have made a new journal there."""
    try:
        journal.mkdir()
    except FileExistsError:
        journal.unlink()
        return False
    return True


def test_what_a_watch_could_not_journal_is_kept(service: Service) -> None:
    """While the journal cannot be written nothing is lost: it follows with the next event."""
    service.configure("", QUICK).guard("start")
    journal = service.guard.state / "journal.db"
    with service.guard.popen("watch") as process:
        wait_until(lambda: at_work(process), what="the watch")
        journal.rename(journal.with_suffix(".away"))
        wait_until(lambda: _in_the_way(journal), what="a folder in place of the journal")
        assert process.stderr is not None
        service.wait_for_another(service.kill())
        while "journal" not in process.stderr.readline():
            pass
        journal.rmdir()
        journal.with_suffix(".away").rename(journal)
        service.wait_for_another(service.kill())
        process.terminate()
        process.communicate(timeout=20)
    assert service.status()["restarts"] == 2


def test_a_locked_journal_does_not_hold_up_the_next_watch(service: Service) -> None:
    """A watch that leaves while another process writes to the journal hands over first and writes then."""
    service.configure("", QUICK).guard("start")
    with watching(service.guard) as first, service.guard.popen("watch", "--wait") as second:
        locks = service.guard.state / "locks"
        wait_until(lambda: [x for x in locks.iterdir() if x.name.startswith("next-watch")], what="one that waits")
        with closing(sqlite3.connect(service.guard.state / "journal.db", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            service.wait_for_another(service.kill())
            first.terminate()
            service.wait_for_another(service.kill())
            assert first.poll() is None
            connection.execute("COMMIT")
        assert first.wait(20) == 0
        second.terminate()
        assert second.wait(20) == 0


def test_a_dead_program_is_relaunched_by_a_watch_that_comes_later(service: Service) -> None:
    """What died while nobody watched is found at the start, also when its zombie is still there."""
    service.configure("", QUICK)
    guard = service.guard
    guard("start")
    pid = service.kill()
    with watching(guard):
        service.wait_for_another(pid)


def test_the_relaunched_program_holds_nothing_of_the_watch(service: Service) -> None:
    """Descriptors 0 to 2, a session of its own, default signals, an empty mask; SIGPIPE is default for what runs sh."""
    service.write("while :; do sleep 600; done\n").configure("", QUICK)
    service.guard.configure(service.guard.config.read_text().partition("\n")[2].replace("{python}", "/bin/sh"))
    service.guard("start")
    before = service.lock.read_text()
    with watching(service.guard):
        os.kill(int(before), signal.SIGKILL)
        pid = int(wait_until(lambda: (now := service.lock.read_text()) != before and now, what="the relaunch"))
    assert sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir() if int(path.name) < 10) == ["0", "1", "2"]
    links = [os.fspath(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in (0, 1, 2)]
    assert links == ["/dev/null", str(service.log), str(service.log)]
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert int(status["SigIgn"], 16) == 0
    assert int(status["SigBlk"], 16) == 0
    found = process_table.facts(pid)
    assert found is not None
    assert found.session == pid


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_rounds_of_everything_at_once(service: Service, tmp_path: Path) -> None:
    """Twenty starts, ticks and watches of two configs with two state directories, the program killed meanwhile: one."""
    service.configure("", QUICK)
    other = tmp_path / "other.toml"
    other.write_text(service.guard.config.read_text().replace('"state"', '"state2"'))
    other.chmod(0o600)
    source = (
        "import os, sys\n"
        "from restart_guard import entry\nfrom restart_guard.programs import watch\n"
        "from restart_guard.commands.programs import restart, start, watch as w\n"
        "config, rounds = sys.argv[1], int(sys.argv[2])\n"
        "command = sys.argv[3:]\n"
        "for _ in range(rounds):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os._exit(entry.run(['-q', '-c', config, *command]))\n"
        "    os.waitpid(pid, 0)\n"
    )
    rounds = int(os.environ.get("RG_ROUNDS", "50"))  # of twenty commands each; 200 by hand
    ways = [["start"], ["restart"], ["watch", "--for", "300ms"], ["restart"]] * 5
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", source, str(service.guard.config if number % 2 else other), str(rounds), *way],
            env=service.guard.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number, way in enumerate(ways)
    ]
    while any(process.poll() is None for process in processes):
        pids = service.pids()
        assert len(pids) <= 1, pids
        with suppress(ProcessLookupError):
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
    assert service.guard("start").code == 0
    assert len(service.pids()) == 1
    assert service.lock.read_text() == f"{service.pid()}\n"
