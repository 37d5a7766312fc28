"""Who is ours: docs/lineage.md on small programs that do what real ones do, with strangers beside them."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from restart_guard.host import children, process_table
from tests.conftest import Guard
from tests.support.real import Real, children_of, kill, real_program, wait_gone
from tests.support.servers import wait_until
from tests.support.services import watching

QUICK = 'restart_backoff = { base = "10ms", max = "100ms" }\nmin_uptime = "200ms"\nstop_timeout = "5s"\n'
PYTHON = sys.executable
WAITS = "print('ready', flush=True)\nwhile True: time.sleep(60)\n"


@pytest.fixture
def real(guard: Guard) -> Iterator[Real]:
    with real_program(guard) as one:
        yield one


def write(real: Real, name: str, text: str) -> Path:
    path = real.folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_program_that_exits_at_once_is_tried_again_and_again(real: Real) -> None:
    """Under watch, at the pace of its backoff: 200 ms, then 400 ms each."""
    write(real, "short.py", "open('runs', 'a').write('x')\n")
    options = QUICK.replace('base = "10ms", max = "100ms"', 'base = "200ms", max = "400ms"')
    guard = real.configure("short.py", "{python} {program}", options)
    (real.folder / "short.py.pid").write_text("1\n")
    guard("watch", "--for", "5s")
    assert 8 <= len((real.folder / "runs").read_text()) <= 15


@pytest.mark.process
def test_children_that_have_ended_are_forgotten() -> None:
    """A watch starts one for each relaunch and each health command, for months."""
    child = children.start(lambda: subprocess.Popen(["true"]))
    kept = weakref.ref(child)
    assert child.wait(20) == 0
    del child
    assert kept() is None


DAEMON = f"""\
import os, sys, time
if os.fork():
    time.sleep(float(sys.argv[1]))
    os._exit(0)
os.setsid()
if len(sys.argv) > 2 and os.fork():
    os._exit(0)
time.sleep(float(sys.argv[1]) * 2)
{WAITS}"""


@pytest.mark.parametrize("seconds", ["0.05", "1"])
@pytest.mark.parametrize("twice", ["", " twice"])
def test_a_launcher_and_its_daemon_are_one_program(real: Real, seconds: str, twice: str) -> None:
    """Its launcher may need longer than min_uptime, and leaves before its daemon is ready: start, tick and watch."""
    write(real, "daemon.py", DAEMON)
    guard = real.configure("daemon.py", f"{{python}} {{program}} {seconds}{twice}", QUICK)
    assert guard("start").code == 0
    assert len(real.processes()) == 1
    kill(real.pid())
    assert "relaunched" in guard("restart").out
    assert [one.pid for one in real.processes()] == [real.pid()]
    with watching(guard):
        for _ in range(3):
            pid = wait_until(lambda: killed(real.pid()), what="a process to kill")  # the launcher may have just left
            wait_until(lambda: [one.pid for one in real.processes()] not in ([], [pid]), what="another")  # noqa: B023
            wait_until(lambda: [one.pid for one in real.processes()] == [real.pid()], what="one daemon")
    assert guard("stop").code == 0
    assert real.processes() == []


def killed(pid: int) -> int:
    """The pid of a process that was there to be killed, else 0."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return pid


def test_a_wrapper_that_starts_java_by_nohup_and_leaves(real: Real) -> None:
    """What it left is the program, whatever it looks like; it is neither doubled nor left."""
    real.jar()
    write(real, "run.sh", "#!/bin/sh\nnohup java -Xmx32m -cp app.jar App > out.log 2>&1 &\n")
    guard = real.configure("run.sh", "{program}", QUICK)
    for _ in range(3):
        assert guard("start").code == 0
        (java,) = real.processes()
        assert real.pid() == java.pid
        assert guard("start").out.endswith(f"already runs, pid {java.pid}\n")
        assert guard("stop").code == 0
        assert real.processes() == []


def test_the_release_before_is_ended_whole(real: Real) -> None:
    """A deployment swaps a link: also the child in a session of its own belongs to the launch, not to today's path."""
    child = f"import time\n{WAITS}"
    for number in (1, 2):
        folder = real.folder / f"releases/{number}"
        folder.mkdir(parents=True)
        (folder / "app.py").write_text(
            "import subprocess, sys, time\n"
            f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)\n"
            f"{WAITS}"
        )
    current = real.folder / "current"
    current.symlink_to("releases/1")
    guard = real.configure("current/app.py", "{python} {program}", QUICK + 'pid_file = "app.pid"\n')
    guard("start")
    before = wait_until(lambda: len(real.processes()) == 2 and real.processes(), what="the child")
    current.unlink()
    current.symlink_to("releases/2")
    assert guard("restart", "--cold").code == 0
    wait_gone([one.pid for one in before])
    wait_until(lambda: len(real.processes()) == 2, what="the new release with its child")
    assert guard("stop").code == 0
    assert real.processes() == []


MASTER = f"""\
import os, signal, sys, time
for number in range(2):
    if not os.fork():
        def drain(*_):
            time.sleep(0.5)
            open(f'drained{{number}}', 'w').close()
            os._exit(0)
        signal.signal(signal.SIGTERM, drain)
        while True: time.sleep(60)
def leave(*_):
    open('left', 'w').close()
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
{WAITS}"""


@pytest.mark.parametrize("mode", ["mixed", "group"])
def test_the_master_hears_of_a_stop_first(real: Real, mode: str) -> None:
    """Its workers when it has ended, and drain then; with stop_mode = "group" all at once."""
    write(real, "master.py", MASTER)
    guard = real.configure("master.py", "{python} {program}", f'{QUICK}stop_mode = "{mode}"\n')
    guard("start")
    wait_until(lambda: len(real.processes()) == 3, what="workers")
    assert guard("stop").code == 0
    assert real.processes() == []
    left, drained = ((real.folder / name).stat().st_mtime for name in ("left", "drained0"))
    assert drained - left > 0.3


def test_a_stop_of_a_program_whose_directory_is_gone(real: Real) -> None:
    """stop and kill end what runs: it is told by its launch."""
    for command in ("stop", "kill"):
        folder = real.folder / "app"
        folder.mkdir()
        (folder / "run.py").write_text(f"import time\n{WAITS}")
        guard = real.configure("app/run.py", "{python} {program}", QUICK)
        guard("start")
        (one,) = real.processes()
        shutil.rmtree(folder)
        done = guard(command)
        assert done.code == 0, done
        wait_gone([one.pid])


def test_a_pid_file_of_the_programs_own_is_refused_or_told(real: Real) -> None:
    """Its polite end would remove the intent: refused, or where only the program knows it told by the doctor."""
    write(real, "own.py", f"import os, time\nopen('own.py.pid', 'w').write(str(os.getpid()))\n{WAITS}")
    refused = real.configure("own.py", "{python} {program} --pidfile=own.py.pid", QUICK)("start")
    assert refused.code == 2
    assert "targets.app.pid_file: expected a path of restart-guard's own" in refused.err
    guard = real.configure("own.py", "{python} {program}", QUICK)
    assert "must be restart-guard's alone: set pid_file" in guard("start").out
    assert "it writes its own pid file" in guard("doctor").out
    guard("stop")
    guard = real.configure("own.py", "{python} {program}", QUICK + 'pid_file = "guard.pid"\n')
    assert "alone" not in guard("start").out
    assert "writes its own pid file" not in guard("doctor").out
    guard("stop")


def test_a_log_that_is_a_device_is_fine(real: Real) -> None:
    """/dev/null, and a folder is not."""
    write(real, "app.py", f"import time\n{WAITS}")
    for log, verdict in (("/dev/null", False), (str(real.folder), True)):
        guard = real.configure("app.py", "{python} {program}", QUICK + f'log_file = "{log}"\n')
        assert (f"its log_file {log} cannot be written" in guard("doctor").out) is verdict


def test_a_command_that_cron_does_not_find(real: Real) -> None:
    """It is on an interactive PATH only: the doctor and install-timer say so before the tick fails."""
    write(real, "app.py", f"import time\n{WAITS}")
    tools = real.folder / "tools"
    tools.mkdir()
    (tools / "mypython").symlink_to(PYTHON)
    guard = real.configure("app.py", "mypython {program}", QUICK)
    guard.environ["PATH"] = f"{tools}:{guard.environ['PATH']}"
    told = "cron does not find its command mypython, whose PATH is /usr/bin:/bin"
    assert told in guard("doctor").out
    assert told in guard("install-timer", "--dry-run").err
    guard = real.configure("app.py", "mypython {program}", QUICK + f'environment = {{ PATH = "{tools}" }}\n')
    assert told not in guard("doctor").out


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces")
def test_the_same_program_in_a_container_is_another_one(real: Real) -> None:
    """Its own pid and mount namespaces: start launches ours, and stop leaves it alone."""
    write(real, "app.py", f"import time\n{WAITS}")
    inside = ["unshare", "--pid", "--mount", "--fork", "--kill-child", PYTHON, str(real.folder / "app.py")]
    with subprocess.Popen(inside, stdout=subprocess.PIPE) as container:
        try:
            assert container.stdout is not None
            container.stdout.readline()
            (other,) = children_of(container.pid)
            guard = real.configure("app.py", "{python} {program}", QUICK)
            assert real.status()["state"] == "stopped"
            started = guard("start")
            assert (started.code, "other arguments" in started.out) == (0, False)
            assert real.pid() != other
            assert guard("stop").code == 0
            assert process_table.identity(other) is not None
        finally:
            container.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_the_same_program_of_another_user_is_named_and_not_taken(real: Real) -> None:
    """start refuses to double it and to take it over; a tick goes on as if it were not there."""
    write(real, "app.sh", "while :; do sleep 60; done\n")
    for folder in (real.folder, *real.folder.parents[:3]):
        folder.chmod(0o755)
    with subprocess.Popen(["/bin/sh", str(real.folder / "app.sh")], user=65534, group=65534, cwd="/") as other:
        try:
            guard = real.configure("app.sh", "/bin/sh {program}", QUICK)
            refused = guard("start")
            assert refused.code == 1
            assert f"already runs as pid {other.pid}, which restart-guard did not start" in refused.err
            (real.folder / "app.sh.pid").write_text("1\n")
            assert "relaunched" in guard("restart").out
            assert real.pid() != other.pid
            assert guard("stop").code == 0
            assert other.poll() is None
        finally:
            other.kill()


def test_without_inotify_watches_pid_locks_are_looked_at(real: Real) -> None:
    """A limit of the user's own namespace (user_namespaces(7)); it is said once, and a start is seen within seconds."""
    write(real, "app.py", f"import time\n{WAITS}")
    guard = real.configure("app.py", "{python} {program}", QUICK)
    limited = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        'echo 0 > /proc/sys/user/max_inotify_watches; "$@"',
        "-",
    ]
    if subprocess.run([*limited, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    with subprocess.Popen(
        [*limited, *guard.command("watch")], env=guard.environ, cwd=real.folder, stderr=subprocess.PIPE, text=True
    ) as watch:
        try:
            assert watch.stderr is not None
            assert "no inotify watches left" in watch.stderr.readline()
            assert guard("start").code == 0
            time.sleep(3)  # three looks
            before = real.pid()
            os.kill(before, signal.SIGKILL)
            wait_until(lambda: real.status()["pid"] not in (None, before), what="a relaunch", timeout=8)
        finally:
            for pid in children_of(watch.pid):
                os.kill(pid, signal.SIGTERM)
            watch.terminate()
            assert watch.stderr is not None
            assert "inotify" not in watch.stderr.read()
            guard("stop")


def test_too_few_descriptors_are_told_and_the_rest_is_looked_at(real: Real) -> None:
    """ulimit -n 18 and twelve targets: all are relaunched."""
    sections = []
    for number in range(12):
        write(real, f"app{number}.py", f"import time\n{WAITS}")
        sections.append(f'[targets.t{number}]\nprogram = "app{number}.py"\n{QUICK}')
    guard = real.guard.configure("\n".join(sections))
    assert guard("start").code == 0
    command = ["sh", "-c", 'ulimit -n 28; exec "$@"', "-", *guard.command("watch")]
    with subprocess.Popen(
        command, env=guard.environ, cwd=real.folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as watch:
        try:
            assert watch.stderr is not None
            assert "Only 4 processes can be waited for" in watch.stderr.readline()
            before = {one.pid for one in real.processes()}
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: len(real.processes()) == 12, what="all of them")
            assert not before & {one.pid for one in real.processes()}
        finally:
            watch.terminate()
            watch.wait(20)
            guard("stop", "--force", "--timeout", "1s")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be pid 1 of a namespace")
def test_as_pid_1_it_reaps_orphans(real: Real) -> None:
    """In a container without an init: what a program leaves behind does not pile up as zombies."""
    write(
        real,
        "app.py",
        "import os, time\n"
        "for _ in range(20):\n    if not os.fork():\n        if os.fork():\n            os._exit(0)\n"
        "        time.sleep(0.2)\n        os._exit(0)\n    os.wait()\n"
        f"{WAITS}",
    )
    guard = real.configure("app.py", "{python} {program}", QUICK)
    (real.folder / "app.py.pid").write_text("1\n")
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *guard.command("watch")]
    with subprocess.Popen(inside, env=guard.environ, cwd=real.folder, stdout=subprocess.DEVNULL) as container:
        try:
            wait_until(lambda: "ready" in log(real), what="the program")
            (watch,) = children_of(container.pid)

            def zombies() -> list[int]:
                return [one.pid for one in process_table.everybody() if one.parent == watch and one.dead]

            wait_until(lambda: not zombies() and len(children_of(watch)) == 1, what="no zombies")
        finally:
            container.kill()


def log(real: Real) -> str:
    path = real.folder / "app.log"
    return path.read_text() if path.exists() else ""


KINDS = {
    "master": (
        "{python} {program}",
        f"import os, time\nfor _ in range(2):\n    if not os.fork(): break\n{WAITS}",
        "",
    ),
    "nohup": ("nohup {python} {program} > /dev/null 2>&1 &", f"import time\n{WAITS}", "shell = true\n"),
    "daemon": ("{python} {program} 0.01 twice", DAEMON, ""),
}


def run_for(real: Real, kind: str, seconds: float) -> None:
    """Random commands, ticks and watches; leaders, workers and launchers killed at random; a stranger beside."""
    command, text, more = KINDS[kind]
    write(real, "app.py", text)
    options = QUICK + more
    guard = real.configure("app.py", command, options)
    seed = time.time_ns()
    chance = random.Random(seed)
    print("seed", seed)
    stranger = subprocess.Popen(
        [PYTHON, "app.py", "0", "stranger", "like", "it"], cwd=real.folder, start_new_session=True
    )
    wait_until(lambda: len(real.processes()) >= 1, what="the stranger")
    time.sleep(0.5)
    strangers = {one.pid for one in real.processes()}

    def ours() -> list[int]:
        return [one.pid for one in real.processes() if one.pid not in strangers]

    commands = [["start"], ["stop"], ["kill"], ["restart", "--cold"], ["restart"], ["restart"], ["restart"]]
    pending: list[subprocess.Popen[str]] = []
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            for _ in range(chance.randint(1, 3)):
                words = chance.choice([*commands, ["watch", "--for", f"{chance.randint(1, 20) * 100}ms"]])
                pending.append(guard.popen(*words, output=subprocess.DEVNULL))
            living = ours()
            for pid in chance.sample(living, min(len(living), chance.randint(0, 2))):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(chance.random() * 0.5)
            if chance.random() < 0.3:
                for one in pending:
                    assert one.wait(30) in (0, 1, 75)
                pending.clear()
                guard("restart")
                guard("restart")
                quiet(real, ours, kind)
        for one in pending:
            assert one.wait(30) in (0, 1, 75)
        assert guard("stop", "--force", "--timeout", "1s").code == 0
        assert ours() == []
        assert all(process_table.identity(pid) is not None for pid in strangers)
    finally:
        for one in pending:
            one.kill()
            one.wait()
        stranger.kill()
        stranger.wait()


def quiet(real: Real, ours: Callable[[], list[int]], kind: str) -> None:
    """When nothing is under way, intent and reality agree: one instance of what should run, else nothing."""
    wanted = (real.folder / "app.py.pid").exists()
    most = {"master": 3, "nohup": 1, "daemon": 1}[kind]

    def agree() -> bool:
        if not wanted:
            return not ours()
        if 1 <= len(ours()) <= most and real.status()["state"] == "running":
            return True
        real.guard("restart")  # a launcher that took longer than min_uptime to begin is launched again (README, Limits)
        return False

    try:
        wait_until(agree, what="one instance, or none", timeout=30)
    except AssertionError as error:
        raise AssertionError(f"{error} ({wanted=}, {real.processes()}, {real.status()})") from error


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_at_random_it_is_one_and_the_stranger_is_untouched(real: Real, kind: str) -> None:
    """Twenty seconds of each kind, or as long as RANDOM_SECONDS says."""
    run_for(real, kind, float(os.environ.get("RANDOM_SECONDS", "20")))
