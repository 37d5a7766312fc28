"""How a program is started: environment, umask, user, files; and who it is taken for."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from restart_guard.host import process_table
from tests.conftest import Done, Guard
from tests.support.servers import wait_until
from tests.support.services import PROGRAMS, Service

SHOW = "import os, time\nprint('ready', {value}, flush=True)\nwhile True:\n    time.sleep(60)\n"


@pytest.mark.parametrize("passed", [False, True])
def test_a_secret_of_the_config_is_not_in_the_programs_environment(service: Service, passed: bool) -> None:
    """Nor in that of its hooks; unless it is to be passed."""
    folder = service.guard.directory
    options = f"pre_stop = \"sh -c 'env > {folder}/hook'\"\n"
    if passed:
        options += 'pass_environment = ["REDIS_PASS*"]\n'
    service.write("import os, sys\nprint(dict(os.environ), 'ready', flush=True)\nimport time\ntime.sleep(600)\n")
    service.configure("", f'{options}[redis]\npassword = {{ env = "REDIS_PASSWORD" }}\n')
    service.guard.environ |= {"REDIS_PASSWORD": "secret-of-redis", "OTHER": "harmless"}
    assert service.guard("start").code == 0
    service.ready()
    assert service.guard("stop").code == 0
    for said in (service.log.read_text(), (folder / "hook").read_text()):
        assert ("secret-of-redis" in said) is passed
        assert "harmless" in said


def test_the_environment_file_is_read_afresh_at_each_start(service: Service) -> None:
    """Quotes and comments as a shell has them; a name that is gone from the file is gone from the program."""
    file = service.guard.directory / "web.env"
    service.write(SHOW.format(value="sorted((k, v) for k, v in os.environ.items() if k.startswith('WEB_'))"))
    service.configure("", 'environment_file = "web.env"\nenvironment = { WEB_PORT = "1" }')
    file.write_text("# a comment\nexport WEB_NAME='一 二' # three\nWEB_PORT=2\n\n", encoding="utf-8")
    service.guard("start")
    service.ready()
    assert "[('WEB_NAME', '一 二'), ('WEB_PORT', '1')]" in service.log.read_text()
    file.write_text("WEB_OTHER=x\n")
    service.guard("restart", "--cold")
    wait_until(lambda: service.log.read_text().count("ready") == 2, what="the second start")
    assert "[('WEB_OTHER', 'x'), ('WEB_PORT', '1')]" in service.log.read_text()


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"SECRET-0001 text", "line 1: expected NAME=value"), (b"A='x", "line 1: a quotation mark"), (b"\xff=1", "UTF-8")],
)
def test_a_bad_environment_file_is_told_without_its_content(service: Service, content: bytes, told: str) -> None:
    """The line is named, its text, which may be a secret, is not."""
    (service.guard.directory / "web.env").write_bytes(content)
    done = service.configure("", 'environment_file = "web.env"').guard("start")
    assert done.code == 1
    assert told in done.err
    assert "SECRET" not in done.err
    assert "Traceback" not in done.err
    (service.guard.directory / "web.env").unlink()
    assert "cannot be read: No such file or directory" in service.guard("start").err


def test_umask_and_appended_log(service: Service) -> None:
    """The program's umask is the config's; its log is appended to, also when it is moved away between starts."""
    service.write(SHOW.format(value="oct(os.umask(0))")).configure("", 'umask = "027"')
    service.log.parent.mkdir()
    service.log.write_text("before\n")
    service.guard("start")
    service.ready()
    assert service.log.read_text() == "before\nready 0o27\n"
    service.log.rename(service.log.with_suffix(".1"))
    service.guard("restart", "--cold")
    service.ready()


def test_a_pid_file_elsewhere(service: Service) -> None:
    """For a program whose directory we may not write; status and stop go by it."""
    service.configure("", 'pid_file = "run/web.pid"')
    assert service.guard("start").code == 0
    file = service.guard.directory / "run/web.pid"
    assert file.read_text() == f"{service.pid()}\n"
    assert not service.lock.exists()
    service.kill()
    assert "relaunched" in service.guard("restart").out
    assert file.read_text() == f"{service.pid()}\n"
    assert service.guard("stop").code == 0
    assert not file.exists()


def test_an_interrupted_start_is_completed_by_the_next_tick(service: Service) -> None:
    """kill -9 while start proves the program: it runs already, and the tick makes it guarded."""
    service.configure(min_uptime="30s")
    with service.guard.popen("start") as starting:
        wait_until(service.pids, what="the program")
        service.ready()
        starting.kill()
    assert not service.lock.exists()
    assert "its start was interrupted; it is guarded now" in service.guard("restart").out
    assert service.lock.read_text() == f"{service.pid()}\n"


@pytest.mark.parametrize("command", ["start", "restart", "stop", "cold"])
def test_kill_nine_at_every_step_of_a_command(service: Service, command: str) -> None:
    """At a sample of all lines of each: then the tick leaves one instance and a true lock, or after a stop none."""
    service.configure("", 'restart_backoff = { base = "1ms", max = "1ms" }')
    names = ["tick", "operate", "actions", "launch", "stop", "pidlock", "processes", "events"]
    modules = ",".join([*(f"programs/{name}" for name in names), "journal/journal"])
    environ = {"PYTHONPATH": str(PROGRAMS), "RG_KILL_IN": modules}
    arguments = ["restart", "--cold"] if command == "cold" else [command]
    count = service.guard.directory / "count"

    def prepare() -> None:
        if command == "start":
            service.guard("stop", "--force", "--timeout", "100ms")
        else:
            service.guard("start")
        if command == "restart":
            service.guard("kill")

    prepare()
    service.guard(*arguments, environ=environ | {"RG_COUNT_TO": str(count)})
    steps = [int(line) for line in count.read_text().splitlines()]
    assert len(steps) > 80
    for step in steps[:: len(steps) // 10]:
        prepare()
        was_locked = service.lock.exists()
        service.guard(*arguments, environ=environ | {"RG_KILL_AT": str(step)})
        assert service.guard("restart").code == 0
        pids = service.pids()
        if command == "stop" and not service.lock.exists():
            assert len(pids) <= 1  # the stop was interrupted: it stays a stop, and a second one completes it
            assert service.guard("stop").code == 0
            assert service.pids() == []
        elif pids or was_locked:
            assert len(pids) == 1, step
            assert service.lock.read_text() == f"{pids[0]}\n", step


def test_a_reused_pid_is_not_taken_for_the_program(service: Service) -> None:
    """The kernel is made to give the dead program's pid to a bystander: relaunched, the bystander untouched.

    In a pid namespace of its own: elsewhere, whoever holds an old pid would meet a stranger too.
    """
    if os.geteuid() != 0:
        pytest.skip("only root may choose the next pid")
    service.configure()
    script = [sys.executable, str(PROGRAMS / "reused_pid.py"), str(service.guard.config), str(service.program)]
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *script],
        env=service.guard.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("the bystander lives\n")


def test_a_parent_that_never_collects_is_no_obstacle(service: Service) -> None:
    """The program's zombie stays for as long as its parent likes: dead, relaunched, and again."""
    service.configure("", 'restart_backoff = { base = "1ms", max = "1ms" }')
    command = " ".join(f"'{word}'" for word in service.guard.command("start"))
    with subprocess.Popen(["sh", "-c", f"{command}; sleep 60"], env=service.guard.environ) as parent:
        wait_until(service.lock.exists, what="the start")
        for _ in range(3):
            service.kill()
            wait_until(lambda: service.guard("restart").out, what="the relaunch")
            assert len(service.pids()) == 1
        parent.kill()


@pytest.mark.parametrize("shift", [-86400, 86400])
def test_a_stepped_wall_clock_changes_nothing(service: Service, shift: int) -> None:
    """A day in each direction: the same process, the same uptime, relaunched when dead and not otherwise."""
    service.configure().guard("start")
    pid = service.pid()
    stepped = {"PYTHONPATH": str(PROGRAMS), "RG_CLOCK_SHIFT": str(shift)}
    status = service.guard("status", "--json", environ=stepped).json[0]
    assert (status["state"], status["pid"]) == ("running", pid)
    assert 0 <= status["uptime_s"] < 60
    assert service.guard("restart", environ=stepped).out == ""
    service.kill()
    assert "relaunched" in service.guard("restart", environ=stepped).out
    assert service.guard("restart").out == ""
    assert len(service.pids()) == 1


def test_a_program_that_changes_directory_title_and_image_is_still_found(service: Service) -> None:
    """By its record: nothing of what it was started as is left to see."""
    service.write(
        "import os, sys\nos.chdir('/')\n"
        "code = 'import time; print(\"ready\", flush=True); time.sleep(600)'\n"
        "os.execv(sys.executable, ['worker: idle', '-c', code])\n"
    ).configure()
    service.guard("start")
    service.ready()
    assert service.pids() == []
    status = service.status()
    assert status["state"] == "running"
    assert service.guard("start").code == 0
    assert service.status()["pid"] == status["pid"]
    assert service.guard("stop").code == 0
    assert process_table.facts(status["pid"]) is None or process_table.facts(status["pid"]).dead  # type: ignore[union-attr]


def test_each_way_to_identify_finds_a_program_started_by_hand(guard: Guard, tmp_path: Path) -> None:
    """argv by the script, exe by the binary, cwd by directory and name; aliases too; a namesake elsewhere is not it."""
    service = Service(guard)
    binary = tmp_path / "bin" / "sleeper"
    binary.parent.mkdir()
    shutil.copy("/bin/sleep", binary)
    here, elsewhere = service.program.parent, tmp_path
    shutil.copy(service.program, elsewhere / "service.py")
    ways: dict[str, tuple[list[str], str | Path]] = {
        "argv": ([sys.executable, str(service.program)], "/"),
        "cwd": ([sys.executable, "service.py"], here),
        "proc_cwd": ([sys.executable, "service.py"], here),
        "lsof_cwd": ([sys.executable, "./service.py"], here),
        "auto": ([sys.executable, "-u", "service.py"], here),
    }
    with subprocess.Popen([sys.executable, "service.py"], cwd=elsewhere, stdout=subprocess.DEVNULL) as namesake:
        for way, (command, directory) in ways.items():
            service.configure("", f'identify = "{way}"')
            assert service.status()["state"] == "stopped"
            with subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL) as hand:
                wait_until(lambda: service.status()["pid"] == hand.pid, what=way)
                hand.kill()
        for way in ("exe", "proc_exe", "auto"):
            guard.configure(f'[targets.web]\nprogram = "bin/sleeper"\ncommand = "{{program}} 60"\nidentify = "{way}"\n')
            with subprocess.Popen([binary, "60"], cwd="/") as hand:
                wait_until(lambda: service.status()["pid"] == hand.pid, what=way)
                hand.kill()
        namesake.kill()


PORTABLE = {"PYTHONPATH": str(PROGRAMS), "RG_PORTABLE": "1"}


def test_the_layer_for_hosts_without_proc_does_the_same(service: Service) -> None:
    """The life of a program through psutil: start, tick, watch, hot reload refused by nothing, drain, adoption."""
    service.configure("", 'restart_backoff = { base = "1ms", max = "1ms" }')

    def guard(*arguments: str) -> Done:
        return service.guard(*arguments, environ=PORTABLE)

    assert guard("start").code == 0
    pid = service.pid()
    assert guard("status", "--json").json[0]["pid"] == pid
    assert guard("restart").out == ""
    service.kill()
    assert "relaunched" in guard("restart").out
    with service.guard.popen("watch", environ=PORTABLE) as process:
        wait_until((service.guard.state / "locks").exists, what="the watch")
        service.wait_for_another(service.kill())
        process.terminate()
        assert process.wait(20) == 0
    assert guard("kill").code == 0
    assert service.pids() == []
    assert guard("status").code == 1
    assert guard("stop").code == 0
    with subprocess.Popen([sys.executable, service.program], stdout=subprocess.DEVNULL) as hand:
        wait_until(lambda: guard("status", "--json").json[0]["state"] == "unguarded", what="the program")
        assert guard("start").code == 0
        assert guard("stop").code == 0
        assert hand.wait() == -signal.SIGTERM


def test_on_nfs_a_lock_needs_a_descriptor_for_writing(service: Service) -> None:
    """Every command works there, also the second."""
    library = service.guard.directory / "nfs_flock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, PROGRAMS / "nfs_flock.c"], check=True)
    nfs = {"LD_PRELOAD": str(library)}
    guard = service.configure("", 'restart_backoff = { base = "1ms", max = "1ms" }').guard
    for _ in range(2):
        assert guard("start", environ=nfs).code == 0
        service.kill()
        assert "relaunched" in guard("restart", environ=nfs).out
        assert "cannot be taken" not in guard("doctor", environ=nfs).out
        assert guard("stop", environ=nfs).code == 0


def test_a_program_that_locks_its_own_file_can_be_guarded(service: Service) -> None:
    """``flock -n "$0"`` is a usual way to run once: it is started, adopted and stopped like any other."""
    service.write(
        "import fcntl, time\nfile = open(__file__)\nfcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "print('ready', flush=True)\nwhile True:\n    time.sleep(60)\n"
    ).configure()
    assert service.guard("start").code == 0
    service.ready()
    assert service.guard("start").code == 0
    assert service.guard("restart", "--cold").code == 0
    assert service.guard("stop").code == 0
    assert service.pids() == []
