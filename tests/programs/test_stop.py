"""A graceful stop: what drains, how long, what is left; and a reload in place."""

import os
import signal
import sys
from pathlib import Path

import pexpect

from restart_guard.host import process_table
from tests.conftest import Guard
from tests.support.servers import wait_until
from tests.support.services import Service


def test_pre_stop_runs_before_term_and_knows_the_pid(service: Service) -> None:
    """It takes the program out of the load balancer while that still runs; its mark is not inherited."""
    script = "kill -0 $RESTART_GUARD_PID && echo $RESTART_GUARD_PID ${RESTART_GUARD_PROGRAM-none} > drained"
    service.configure("", f"pre_stop = \"sh -c '{script}'\"").guard("start")
    pid = service.pid()
    done = service.guard("stop")
    assert done.code == 0
    assert "web: pre_stop took " in done.out
    assert (service.program.parent / "drained").read_text() == f"{pid} none\n"


def test_a_pre_stop_that_fails_or_hangs_is_told_and_the_program_stopped(service: Service) -> None:
    """The stop goes on, and its result names the failure."""
    service.configure("", "pre_stop = \"sh -c 'echo no balancer; exit 3'\"").guard("start")
    failed = service.guard("stop")
    assert failed.code == 0
    assert "pre_stop failed (exit status 3: no balancer); stopped in" in failed.out
    service.configure("", 'pre_stop = "sleep 60"\npre_stop_timeout = "200ms"').guard("start")
    assert "pre_stop failed (not done within 200ms, killed); stopped in" in service.guard("stop").out
    assert service.pids() == []


def test_kill_after_ends_what_does_not_drain(service: Service) -> None:
    """After kill_after the process is killed and named, and the exit code is 0."""
    service.configure("ignore-term", 'kill_after = "300ms"').guard("start")
    service.ready()
    pid = service.pid()
    done = service.guard("stop")
    assert done.code == 0
    assert "killed after 3" in done.out
    assert f"(pid {pid})" in done.out
    assert service.pids() == []


def test_a_suspended_program_is_continued_to_drain(service: Service) -> None:
    """SIGSTOP would keep TERM waiting for ever; a stopped program is alive all the same, and not doubled."""
    service.configure("slow-stop 0", 'stop_timeout = "5s"').guard("start")
    service.ready()
    pid = service.pid()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: (found := process_table.facts(pid)) and found.state == "T", what="the stop")
    assert service.guard("restart").out == ""
    assert service.status()["state"] == "running"
    assert service.guard("stop").code == 0
    assert service.pids() == []


def test_a_child_in_a_session_of_its_own_does_not_outlive_a_stop(service: Service) -> None:
    """It carries the program's mark; one that ignores TERM is named, and --force ends it."""
    service.write(
        "import subprocess, sys, time\n"
        "child = 'import signal, time; signal.signal(15, 1); print(\"child\", flush=True); time.sleep(300)'\n"
        "subprocess.Popen([sys.executable, '-c', child, __file__], start_new_session=True)\ntime.sleep(300)\n"
    ).configure("", 'stop_timeout = "300ms"')
    service.guard("start")
    wait_until(lambda: "child" in service.log.read_text(), what="the child")
    done = service.guard("stop")
    assert done.code == 1
    (left,) = service.pids()
    assert f"(pid {left}); stop --force kills it" in done.err
    service.guard("start")
    forced = service.guard("stop", "--force", "--timeout", "100ms")
    assert (forced.code, service.pids()) == (0, [])


def test_the_shell_that_asks_for_a_stop_is_not_stopped(service: Service) -> None:
    """A program that asks for its own stop, or a job that it started: who asks lives on to hear how it went."""
    command = [sys.executable, "-m", "restart_guard", "-c", str(service.guard.config), "stop"]
    service.write(
        "import subprocess, sys, time\nprint('ready', flush=True)\n"
        f"code = subprocess.run({command!r}, start_new_session=True).returncode\ntime.sleep(60)\n"
    ).configure("", 'stop_timeout = "2s"')
    service.guard("start")
    wait_until(lambda: "stopped in" in service.log.read_text(), what="the stop's own words")
    wait_until(lambda: service.pids() == [], what="its end")


def test_a_stop_counts_down_on_a_terminal(service: Service) -> None:
    """A person sees what is left and for how long; a log does not."""
    service.configure("slow-stop 2", 'stop_timeout = "20s"').guard("start")
    service.ready()
    words = service.guard.command("stop")
    child = pexpect.spawn(words[0], words[1:], env=service.guard.environ, encoding="utf-8", timeout=20)
    child.expect(r"web: 1 process left, 1[89] s")
    child.expect(r"web: stopped in 2")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_hot_restart_keeps_the_pid(service: Service) -> None:
    """The program hears the signal, and lives on."""
    service.write(
        "import signal, time\nsignal.signal(signal.SIGHUP, lambda *_: print('reloaded', flush=True))\n"
        "print('ready', flush=True)\nwhile True:\n    time.sleep(60)\n"
    ).configure()
    service.guard("start")
    service.ready()
    pid = service.pid()
    done = service.guard("restart", "--hot")
    assert (done.code, service.pids()) == (0, [pid])
    assert f"web: reloaded, pid {pid}" in done.out
    wait_until(lambda: "reloaded" in service.log.read_text(), what="the program's word")


def test_a_signal_that_would_end_the_program_is_not_sent(service: Service) -> None:
    """restart --hot refuses a signal that the program does not handle."""
    service.configure().guard("start")
    service.ready()
    pid = service.pid()
    done = service.guard("restart", "--hot")
    assert (done.code, service.pids()) == (1, [pid])
    assert "SIGHUP would end it" in done.err


def test_a_reload_command_and_what_can_go_wrong(service: Service) -> None:
    """Its failure is told; a program that does not survive its reload, too; what does not run cannot be reloaded."""
    guard = service.configure("", "reload_command = \"sh -c 'kill -0 $RESTART_GUARD_PID'\"").guard
    assert guard("restart", "--hot").code == 1
    guard("start")
    assert guard("restart", "--hot").code == 0
    service.configure("", "reload_command = \"sh -c 'exit 4'\"")
    assert "reload_command failed: exit status 4" in guard("restart", "--hot").err
    service.configure("", "reload_command = \"sh -c 'kill -9 $RESTART_GUARD_PID'\"")
    assert "ended within 100ms of the reload" in guard("restart", "--hot").err
    both = guard("restart", "--hot", "--cold")
    assert both.code == 2


def test_a_failing_drain_keeps_a_cold_restart_from_doubling(service: Service) -> None:
    """What does not go down is not started a second time; it stays guarded."""
    service.configure("ignore-term", 'stop_timeout = "200ms"').guard("start")
    service.ready()
    pid = service.pid()
    assert service.guard("restart", "--cold").code == 1
    assert service.pids() == [pid]
    assert service.status()["state"] == "running"


def test_other_targets_and_strangers_are_untouched_by_a_stop(guard: Guard) -> None:
    """Only the program's own session and mark count: the same program in another folder lives on, guarded."""
    one, other = Service(guard, "one"), Service(guard, "other")
    try:
        guard.configure(one.section() + other.section())
        guard("start")
        pid = other.pid()
        assert guard("stop", "one").code == 0
        assert (one.pids(), other.pids()) == ([], [pid])
        assert Path(f"{other.program}.pid").exists()
    finally:
        one.end()
        other.end()
