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


SCRIPT = "while :; do sleep 0.05; done\n"


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that every user may write, with a program of sh in it."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    directory = tmp_path_factory.mktemp("shared")
    directory.chmod(0o777)
    for path in directory.parents:
        if path.name.startswith(("pytest-", "popen-")):
            path.chmod(0o755)
    (directory / "loop.sh").write_text(SCRIPT)
    return directory


def as_user(directory: Path, uid: int, *commands: str) -> "subprocess.Popen[str]":
    """Run commands as another user, with a config and a state directory of that user's own.

    The interpreter's files may be unreadable for that user, so everything is imported before.
    """
    config = directory / f"{uid}.toml"
    config.write_text(
        f'state_dir = "state{uid}"\n[targets.loop]\nprogram = "loop.sh"\ncommand = "/bin/sh {{program}}"\n'
        'min_uptime = "100ms"\nrestart_backoff = { base = "1ms", max = "1ms" }\n'
    )
    config.chmod(0o600)
    os.chown(config, uid, uid)
    source = (
        "import os, sys\nfrom restart_guard import entry\n"
        "from restart_guard.programs import actions\nfrom restart_guard.journal import journal\n"
        "from restart_guard.commands import start, restart, stop, status\n"
        "from restart_guard import cli\nfrom restart_guard.standby import memory\n"
        "import ctypes, difflib, resource, encodings.idna, ipaddress, sqlite3, subprocess, traceback\n"
        f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
        f"sys.exit(max(entry.run(['-c', {str(config)!r}, *words.split()]) for words in sys.argv[1:]))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", source, *commands],
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8"},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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


def test_two_users_make_one_instance(shared: Path) -> None:
    """Root and two others, starts and ticks at once, the program killed in between: never two."""
    try:
        for _ in range(4):
            crowd = [as_user(shared, uid, "start", "restart", "restart") for uid in (0, 65534, 12345) for _ in range(2)]
            outputs = [process.communicate(timeout=60)[0] for process in crowd]
            assert len(loops(shared)) == 1, outputs
            assert not any("Traceback" in text or "bug" in text for text in outputs), outputs
            os.kill(loops(shared)[0], signal.SIGKILL)
    finally:
        for pid in loops(shared):
            os.kill(pid, signal.SIGKILL)


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


def test_a_lock_file_that_another_user_makes_meanwhile_excludes(shared: Path) -> None:
    """The other user finds no lock file, root makes one, the other is refused to make it: it looks again, and waits."""
    program = shared / "loop.sh"
    with locking(program, 65534, held_up_at=".loop.sh.lock") as other:
        assert said(other) == "here"
        with locking(program, 0) as root:
            assert said(root) == "held"
            go_on(other)
            assert said(other) == "busy"
            go_on(root)


def test_who_makes_the_lock_file_waits_for_who_locked_the_program(shared: Path) -> None:
    """A user who may not write the folder locks the program; root, whose lock file comes later, is held out."""
    shared.chmod(0o755)
    program = shared / "loop.sh"
    with locking(program, 65534) as other:
        assert said(other) == "held"
        with locking(program, 0) as root:
            assert said(root) == "busy"
        with locking(program, 65534) as third:
            assert said(third) == "busy"
        go_on(other)
    with locking(program, 0) as root:
        assert said(root) == "held"
        go_on(root)


def test_who_locked_the_program_looks_again_for_a_lock_file(shared: Path) -> None:
    """The other user is about to lock the program when root makes the lock file and holds it."""
    shared.chmod(0o755)
    program = shared / "loop.sh"
    with locking(program, 65534, held_up_at="/loop.sh", flag="os.O_NONBLOCK") as other:
        assert said(other) == "here"
        with locking(program, 0) as root:
            assert said(root) == "held"
            go_on(other)
            assert said(other) == "busy"
            go_on(root)


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


def test_another_users_program_is_neither_signalled_nor_doubled(shared: Path) -> None:
    """Root's instance: a user can see that it runs, cannot stop it, and does not start a second one."""
    try:
        root = as_user(shared, 0, "start")
        root.communicate(timeout=60)
        (pid,) = loops(shared)
        other = as_user(shared, 12345, "start", "restart", "stop")
        text = other.communicate(timeout=60)[0]
        assert loops(shared) == [pid]
        assert other.returncode == 1, text
        assert "Traceback" not in text
        assert "may not be signalled" in text or "Operation not permitted" in text
    finally:
        for found in loops(shared):
            os.kill(found, signal.SIGKILL)
