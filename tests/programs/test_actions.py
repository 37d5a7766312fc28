"""Guarding real processes: never two, never the wrong one, and every command does what the table says."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from restart_guard.host import process_table
from restart_guard.host.identity import Facts
from restart_guard.programs.lifecycle import Action, Command, State, decide
from tests.conftest import Guard, job
from tests.support.servers import RedisServer, wait_until
from tests.support.services import PROGRAMS, Service


def test_every_cell_of_the_table_is_filled() -> None:
    """Each command has an answer for each state; what may not be looked at is never launched, killed or drained."""
    for command in Command:
        for state in State:
            assert decide(command, state) in Action
        assert decide(command, State.UNKNOWN) in (Action.REFUSE, Action.NOTHING)
    assert decide(Command.TICK, State.STOPPED) is Action.NOTHING


def test_start_tick_kill_tick_stop(service: Service) -> None:
    """The life of a program; the pid lock holds the pid and a newline, and a tick with nothing to do prints nothing."""
    service.configure()
    guard = service.guard
    assert guard("status").code == 3
    started = guard("start")
    assert started.code == 0
    (pid,) = service.pids()
    assert service.lock.read_text() == f"{pid}\n"
    assert (service.status()["state"], service.status()["pid"]) == ("running", pid)
    assert guard("status").code == 0
    idle = guard("restart")
    assert (idle.code, idle.out, idle.err) == (0, "", "")
    assert guard("start").code == 0
    assert service.pids() == [pid]
    assert guard("kill").code == 0
    assert (service.pids(), service.lock.exists(), guard("status").code) == ([], True, 1)
    assert "relaunched" in guard("restart").out
    (again,) = service.pids()
    assert again != pid
    assert service.status()["restarts"] == 1
    assert guard("stop").code == 0
    assert (service.pids(), service.lock.exists()) == ([], False)
    assert guard("restart").out == ""
    assert service.pids() == []
    assert [event["target"] for event in guard.history()] == ["web"] * 4
    assert len(guard("history", "--target", "web", "--json").json) == 4


def test_twenty_starts_and_ticks_at_once_make_one_instance(service: Service, tmp_path: Path) -> None:
    """Also by another config with another state directory: the exclusion belongs to the program."""
    service.configure()
    other = tmp_path / "other.toml"
    other.write_text(service.guard.config.read_text().replace('"state"', '"state2"'))
    other.chmod(0o600)
    commands = ["start", "restart", "start", "restart"] * 5
    processes = []
    for number, command in enumerate(commands):
        config = service.guard.config if number % 2 else other
        arguments = [sys.executable, "-m", "restart_guard", "-c", str(config), command]
        processes.append(subprocess.Popen(arguments, env=service.guard.environ, stdout=subprocess.DEVNULL))
    codes = {one.wait(60) for one in processes}
    assert codes <= {0, 75}
    assert len(service.pids()) == 1
    assert service.lock.read_text() == f"{service.pids()[0]}\n"


def test_a_failed_start_shows_how_it_ended_and_the_end_of_its_log(service: Service) -> None:
    """The exit status and the last output are shown, no pid lock is left, and a missing command is named."""
    done = service.configure("fail", min_uptime="10s").guard("start")
    assert done.code == 1
    assert "ended within 10s with exit status 1" in done.err
    assert "the port is taken" in done.err
    assert not service.lock.exists()
    missing = service.configure("", "shell = false\n").guard.configure(
        '[targets.web]\nprogram = "none.py"\ncommand = "/no/such/interpreter {program}"\n'
    )("start")
    assert missing.code == 1
    assert "could not be started: No such file or directory" in missing.err


def test_a_stop_waits_while_the_program_drains(service: Service) -> None:
    """It succeeds after the time that the program takes, and no tick brings up a rival meanwhile."""
    service.configure("slow-stop 1")
    service.guard("start")
    service.ready()
    with service.guard.popen("stop") as stopping:
        while stopping.poll() is None:
            assert service.guard("restart").out == ""
            assert len(service.pids()) <= 1
        out, _ = stopping.communicate()
    assert stopping.returncode == 0
    assert "web: stopped in 1" in out
    assert service.pids() == []


def test_one_that_ignores_term_fails_to_stop_and_is_not_relaunched(service: Service) -> None:
    """The exit code is 1, the process is named, ticks leave it alone, and --force ends it."""
    service.configure("ignore-term", 'stop_timeout = "300ms"')
    service.guard("start")
    service.ready()
    (pid,) = service.pids()
    done = service.guard("stop")
    assert done.code == 1
    assert f"(pid {pid}); stop --force kills it" in done.err
    assert service.guard("restart").out == ""
    assert service.pids() == [pid]
    assert service.status()["state"] == "unguarded"
    assert service.guard("stop", "--timeout", "100ms", "--force").code == 0
    assert service.pids() == []


def test_children_never_outlive_a_stop(service: Service) -> None:
    """A child that ignores TERM is waited for and named; with --force nothing is left of the session."""
    service.program.write_text(
        "import subprocess, sys, time\n"
        "child = 'import signal, time; signal.signal(15, 1); print(\"child\", flush=True); time.sleep(300)'\n"
        "subprocess.Popen([sys.executable, '-c', child, __file__])\nprint('ready', flush=True)\ntime.sleep(300)\n"
    )
    service.configure("", 'stop_timeout = "300ms"')
    service.guard("start")
    wait_until(lambda: "child" in service.log.read_text(), what="the child")
    assert len(service.pids()) == 2
    assert service.guard("stop").code == 1
    assert len(service.pids()) == 1
    service.guard("stop", "--timeout", "100ms", "--force")
    kill = service.guard("status", "--json").json
    assert kill[0]["state"] == "stopped"


def test_a_program_started_by_hand_is_adopted(service: Service) -> None:
    """Its shell and the shell's other jobs are none of ours."""
    service.configure()
    with subprocess.Popen(
        [sys.executable, "service.py"], cwd=service.program.parent, stdout=subprocess.DEVNULL
    ) as hand:
        wait_until(lambda: service.status()["state"] == "unguarded", what="the program to be seen")
        assert service.guard("start").code == 0
        assert service.lock.read_text() == f"{hand.pid}\n"
        assert service.guard("stop").code == 0
        assert hand.wait() == -signal.SIGTERM


@pytest.mark.parametrize("content", ["", "garbage\n", "1\n", "bystander", "99999999999999\n", "-5\n"])
def test_a_pid_lock_that_names_nobody_or_a_bystander(service: Service, content: str) -> None:
    """The bystander is untouched, the program is relaunched, and the lock is true again."""
    service.configure()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        service.lock.write_text(f"{bystander.pid}\n" if content == "bystander" else content)
        assert service.status()["state"] == "dead"
        assert service.guard("restart").code == 0
        (pid,) = service.pids()
        assert service.lock.read_text() == f"{pid}\n"
        assert bystander.poll() is None
        service.lock.write_text(f"{bystander.pid}\n" if content == "bystander" else content)
        assert "its pid lock was repaired" in service.guard("restart").out
        assert service.pids() == [pid]
        assert service.lock.read_text() == f"{pid}\n"
        assert service.guard("stop").code == 0
        assert bystander.poll() is None
        bystander.kill()


def test_one_target_with_a_broken_lock_does_not_stop_the_others(service: Service) -> None:
    """A directory where its pid lock should be is told; the tick still brings back the other program."""
    service.configure()
    guard = service.guard
    other = guard.directory / "other.py"
    shutil.copy(service.program, other)
    targets = guard.config.read_text().partition("\n")[2]
    guard.configure(f'[targets.other]\nprogram = "other.py"\nmin_uptime = "100ms"\n{targets}')
    Path(f"{other}.pid").mkdir()
    service.lock.write_text("garbage\n")
    done = guard("restart")
    assert done.code == 1
    assert "other: The pid lock" in done.err
    assert "Traceback" not in done.err
    assert len(service.pids()) == 1
    guard("kill")


def test_a_zombie_is_dead(service: Service) -> None:
    """A parent that does not collect its child leaves its pid behind; the program is relaunched all the same."""
    service.configure()
    with subprocess.Popen([sys.executable, service.program], cwd="/", stdout=subprocess.DEVNULL) as unreaped:
        wait_until(lambda: service.status()["state"] == "unguarded", what="the program")
        service.guard("start")
        os.kill(unreaped.pid, signal.SIGKILL)
        wait_until(lambda: (process_table.facts(unreaped.pid) or Facts(0, "", "Z", 0, 0, 0, 0)).dead, what="death")
        assert service.status()["state"] == "dead"
        assert "relaunched" in service.guard("restart").out


def test_the_target_holds_nothing_of_ours(service: Service) -> None:
    """Descriptors 0 to 2 only, a session of its own, default signals also when we ignore them."""
    service.configure()
    shell = f"trap '' HUP INT QUIT PIPE; exec {sys.executable} -m restart_guard -c '{service.guard.config}' start"
    subprocess.run(["sh", "-c", shell], env=service.guard.environ, check=True, stdout=subprocess.DEVNULL)
    (pid,) = service.pids()
    assert sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir()) == ["0", "1", "2"]
    assert os.getsid(pid) == pid
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    ignored = int(next(line for line in lines if line.startswith("SigIgn")).split()[1], 16)
    # Python itself ignores PIPE (13) and XFSZ (25); the others were ignored by the shell before.
    assert not ignored & (1 << signal.SIGHUP - 1 | 1 << signal.SIGINT - 1 | 1 << signal.SIGQUIT - 1)


def test_kill_nine_at_any_step_leaves_one_instance(service: Service) -> None:
    """After each kill the next tick or start leaves exactly one instance and a true pid lock."""
    service.configure()
    environ = {"PYTHONPATH": str(PROGRAMS), "RG_KILL_IN": "programs/tick,programs/actions,programs/pidlock"}
    count = service.guard.directory / "count"
    service.guard("start", environ=environ | {"RG_COUNT_TO": str(count)})
    steps = [int(line) for line in count.read_text().splitlines()]
    for step in steps[:: max(1, len(steps) // 20)]:
        service.guard("kill")
        service.guard("restart", environ=environ | {"RG_KILL_AT": str(step)})
        assert service.guard("restart").code == 0
        assert len(service.pids()) == 1, step
        assert service.lock.read_text() == f"{service.pids()[0]}\n"


def test_a_check_restarts_the_program_that_fills_redis(guard: Guard, redis_server: RedisServer) -> None:
    """recover = "restart:web": the data is back after the cold restart, which the history shows."""
    service = Service(guard)
    service.program.write_text(
        "import subprocess, time\n"
        f"subprocess.run(['redis-cli', '-s', '{redis_server.socket}', 'set', 'your_data_key', 'x'])\n"
        "open('filled', 'w').close()\ntime.sleep(600)\n"
    )
    # A restart waits until the program is well, however long that takes.
    service.configure(options='health.command = "rm filled"\n')
    guard.configure(
        guard.config.read_text().partition("\n")[2] + job(redis_server, None, None, 'recover = "restart:web"')
    )
    assert guard("start").code == 0
    (before,) = service.pids()
    with redis_server.client() as client:
        client.delete("your_data_key")
    done = guard("check-redis", "--json")
    assert done.code == 0, done.err
    assert (done.json[0]["reads"], done.json[0]["recoveries"][0]["how"]) == (2, "restarted")
    assert service.pids() != [before]
    assert guard("kill").code == 0


def test_a_shell_command_keeps_its_own_braces(service: Service) -> None:
    """{python} and {program} are filled in and quoted; ${NAME} is the shell's."""
    service.guard.configure(
        '[targets.web]\nprogram = "server web 服务/service.py"\nshell = true\nlog_file = "logs/web.log"\n'
        'min_uptime = "100ms"\nenvironment = { WORD = "from-environment" }\n'
        'command = "echo ${WORD}; exec {python} {program}"\n'
    )
    assert service.guard("start").code == 0
    service.ready()
    assert "from-environment" in service.log.read_text()
    assert service.guard("stop").code == 0


def test_a_slow_target_delays_no_other(guard: Guard) -> None:
    """Three targets start side by side in the time of the slowest."""
    service = Service(guard)
    guard.configure(
        "".join(
            f'[targets.{name}]\nprogram = "{name}.py"\ncommand = "{{python}} {{program}}"\nmin_uptime = "{uptime}"\n'
            for name, uptime in (("slow", "2s"), ("a", "10ms"), ("b", "10ms"))
        )
    )
    for name in ("slow", "a", "b"):
        shutil.copy(service.program, guard.directory / f"{name}.py")
    begun = time.monotonic()
    assert guard("start").code == 0
    assert time.monotonic() - begun < 3.5
    assert guard("kill").code == 0


@pytest.mark.parametrize("way", ["auto", "argv", "cwd"])
def test_a_tool_that_works_on_the_programs_file_is_not_the_program(service: Service, way: str) -> None:
    """A linter, a module and an editor with its name among their arguments are neither adopted nor stopped."""
    service.configure("", f'identify = "{way}"')
    linter = service.program.with_name("lint.py")
    linter.write_text("import time\ntime.sleep(60)\n")
    name, folder = service.program.name, service.program.parent
    commands = [
        [sys.executable, "lint.py", name],
        [sys.executable, "lint.py", "--check", str(service.program)],
        [sys.executable, "-c", "import time; time.sleep(60)", str(service.program)],
        ["tail", "-f", name],
    ]
    tools = [subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) for command in commands]
    try:
        assert service.status()["state"] == "stopped"
        assert "web: started" in service.guard("start").out
        assert service.guard("stop").code == 0
        assert [tool.poll() for tool in tools] == [None] * 4
    finally:
        for tool in tools:
            tool.kill()
            tool.wait()


@pytest.mark.parametrize(
    ("command", "by_hand"),
    [
        ("{program}", ["./service.py"]),
        ("nice -n 1 {python} -u {program}", [sys.executable, "-u", "service.py"]),
        ("/usr/bin/env A=1 {python} {program}", [sys.executable, "service.py"]),
    ],
)
def test_wrapped_and_executable_programs_are_recognised(service: Service, command: str, by_hand: list[str]) -> None:
    """By hand, without a record, and without both: one instance."""
    service.program.write_text(f"#!/usr/bin/env python3\n{service.program.read_text()}")
    service.program.chmod(0o755)
    service.configure()
    service.guard.configure(service.section().replace("{python} {program} ", command))
    with subprocess.Popen(by_hand, cwd=service.program.parent, stdout=subprocess.DEVNULL) as hand:
        wait_until(lambda: service.status()["pid"] == hand.pid, what="the program that was started by hand")
        assert f"already runs, pid {hand.pid}" in service.guard("start").out
        assert service.guard("stop").code == 0
    assert service.guard("start").code == 0
    pid = service.status()["pid"]
    service.program.with_name(".service.py.state").unlink()
    assert service.guard("restart").code == 0
    assert service.status()["pid"] == pid
    service.lock.unlink()
    assert f"already runs, pid {pid}" in service.guard("start").out
    assert service.guard("stop").code == 0


def test_what_cannot_be_recognised_is_found_by_its_launch(service: Service) -> None:
    """It looks like nothing we know, and its launch was never recorded: the ticket in its environment tells."""
    service.write("import os, sys\nos.execv('/bin/sleep', ['sleep', '600'])\n").configure()
    service.guard("start")
    pid = int(service.lock.read_text())
    record = service.program.with_name(".service.py.state")
    data = json.loads(record.read_text())
    ticket = Path(f"/proc/{pid}/environ").read_bytes().split(b"RESTART_GUARD_LAUNCH=")[1].split(b"\0")[0].decode()
    # As it stood before the launch, with a pid lock of the one before.
    record.write_text(json.dumps(data | {"process": None, "ticket": ticket}))
    service.lock.write_text("999999\n")
    assert "its pid lock was repaired" in service.guard("restart").out
    assert int(service.lock.read_text()) == pid
    assert service.guard("stop").code == 0


@pytest.mark.parametrize(
    "damage",
    [b"\xff\xfe", b"", b"[]", b"{}", b"process", '"pid": 0', '"pid": 1', '"pid": -1', '"pid": 99999999999999'],
)
def test_a_damaged_record_harms_nobody(service: Service, damage: bytes | str) -> None:
    """Garbage and impossible pids: the program is found by what it runs; nothing else is signalled, nothing raised."""
    service.configure().guard("start")
    pid = service.pid()
    record = service.program.with_name(".service.py.state")
    if isinstance(damage, str):
        data = json.loads(record.read_text())
        data["process"][0] = int(damage.split()[1])
        damage = json.dumps(data).encode()
    record.write_bytes(damage)
    assert service.status()["pid"] == pid
    assert service.guard("restart").code == 0
    assert service.guard("stop").code == 0
    assert service.pids() == []


def test_stop_and_kill_of_a_dead_master_end_its_workers(service: Service) -> None:
    """What it left behind is ended and named, in its session and out of it."""
    service.write(
        "import os, time\n"
        "for number in range(2):\n    if os.fork() == 0:\n        number and os.setsid()\n        break\n"
        "print('ready', flush=True)\nwhile True:\n    time.sleep(60)\n"
    ).configure("", 'identify = "exe"')
    for command in ("stop", "kill"):
        before = service.log.read_text().count("ready") if service.log.exists() else 0
        service.guard("start")
        wait_until(lambda: service.log.read_text().count("ready") == before + 3, what="master and workers")  # noqa: B023
        os.kill(int(service.lock.read_text()), signal.SIGKILL)
        wait_until(lambda: len(service.pids()) == 2, what="the master's end")
        done = service.guard(command)
        assert done.code == 0
        assert "ended its orphans: " in done.out
        assert service.pids() == []


def test_a_daemon_that_forks_twice_is_followed(service: Service) -> None:
    """Not the short-lived process in the middle: start guards what remains, and stop ends it."""
    for pause in ("0", "0.02"):
        service.write(
            "import os, time\nif os.fork():\n    os._exit(0)\nos.setsid()\n"
            f"if os.fork():\n    time.sleep({pause})\n    os._exit(0)\n"
            "print('ready', flush=True)\nwhile True:\n    time.sleep(60)\n"
        ).configure()
        assert service.guard("start").code == 0
        assert service.lock.read_text() == f"{service.pid()}\n"
        assert service.guard("restart").out == ""
        assert service.guard("stop").code == 0
        assert service.pids() == []


def test_a_leader_that_left_its_threads_running_is_alive(service: Service) -> None:
    """After pthread_exit of the first thread it looks like a zombie, and is none."""
    service.write(
        "import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
        "print('ready', flush=True)\nctypes.CDLL(None).pthread_exit(None)\n"
    ).configure()
    service.guard("start")
    pid = int(service.lock.read_text())
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: ") Z " in stat.read_text(), what="the first thread's end")
    assert service.status()["state"] == "running"
    assert service.guard("restart").out == ""
    service.guard("stop", "--force", "--timeout", "1s")
    assert process_table.facts(pid) is None or process_table.facts(pid).dead  # type: ignore[union-attr]


def test_a_log_that_nobody_reads_is_told(service: Service) -> None:
    """A FIFO without a reader would hold every command up for ever."""
    service.log.parent.mkdir()
    os.mkfifo(service.log)
    done = service.configure().guard("start")
    assert done.code == 1
    assert "could not be started: No such device or address" in done.err


def test_a_deployment_that_swaps_a_link_needs_a_pid_file_and_then_works(service: Service) -> None:
    """current -> r1 becomes current -> r2: the cold restart ends the one and starts the other."""
    base = service.guard.directory
    for release in ("r1", "r2"):
        (base / release).mkdir()
        shutil.copy(service.program, base / release / "service.py")
    (base / "current").symlink_to("r1")
    service.guard.configure(
        '[targets.web]\nprogram = "current/service.py"\npid_file = "run/web.pid"\nmin_uptime = "100ms"\n'
    )
    service.guard("start")
    first = service.status()["pid"]
    (base / "current").unlink()
    (base / "current").symlink_to("r2")
    assert service.status()["pid"] == first
    assert service.guard("restart", "--cold").code == 0
    second = service.status()["pid"]
    assert process_table.facts(first) is None or process_table.facts(first).dead  # type: ignore[union-attr]
    assert str(base / "r2/service.py").encode() in Path(f"/proc/{second}/cmdline").read_bytes()
    assert service.guard("stop").code == 0
