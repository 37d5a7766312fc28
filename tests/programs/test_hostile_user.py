"""Root guards a program in a folder of an ordinary user, who does all that he can there: it gives him nothing."""

import json
import os
import random
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from restart_guard.config import load as config_file
from restart_guard.host import process_table
from restart_guard.journal.journal import Journal
from restart_guard.programs import events
from restart_guard.programs.results import ActionResult
from tests.conftest import Guard
from tests.support.servers import wait_until
from tests.support.services import kill_dead, watching

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")

HIM, NEIGHBOUR = 65534, 12345
LOOP = "echo hello; while :; do sleep 0.05; done\n"
SECRET = "root:only:secret\n"
QUICK = 'restart_backoff = { base = "10ms", max = "50ms" }\nmin_uptime = "100ms"\nstop_timeout = "2s"\n'


class Home:
    """A folder of his with the program ``run.sh``, and root's config and files elsewhere."""

    def __init__(self, guard: Guard, folder: Path) -> None:
        self.guard = guard
        self.folder = folder
        self.root = guard.directory / "root"
        self.root.mkdir(mode=0o700)
        self.secret = self.root / "shadow"
        self.secret.write_text(SECRET)
        self.secret.chmod(0o600)
        self.program = self.write("run.sh", LOOP)
        self.lock, self.state = folder / ".run.sh.lock", folder / ".run.sh.state"
        self.pid_lock = folder / "run.sh.pid"

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        os.chown(path, HIM, HIM)
        return path

    def link(self, name: str, to: Path | str) -> Path:
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.symlink_to(to)
        os.chown(path, HIM, HIM, follow_symlinks=False)
        return path

    def fifo(self, name: str) -> Path:
        path = self.folder / name
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        os.chown(path, HIM, HIM)
        return path

    def configure(self, options: str = "", user: str = 'user = "nobody"\n') -> Guard:
        return self.guard.configure(
            f'[targets.app]\nprogram = "{self.program}"\ncommand = "/bin/sh {{program}}"\n{user}{QUICK}{options}\n'
        )

    def pids(self) -> list[int]:
        """The instances that root started for him."""
        return [pid for pid in running(self.program) if process_table.owner(pid) == HIM]

    def is_untouched(self) -> bool:
        status = self.secret.stat()
        names = {path.name for path in self.root.iterdir()}
        mode = stat.S_IMODE(status.st_mode)
        return (self.secret.read_text(), mode, status.st_uid, names) == (SECRET, 0o600, 0, {"shadow"})


def running(program: Path) -> list[int]:
    found = []
    for one in process_table.everybody():
        with suppress(OSError):
            words = Path(f"/proc/{one.pid}/cmdline").read_bytes().split(b"\0")
            if not one.dead and os.fsencode(program) in words:
                found.append(one.pid)
    return found


@pytest.fixture
def home(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    for path in folder.parents:
        if path.name.startswith(("pytest-", "popen-")):
            path.chmod(0o755)
    folder.chmod(0o755)
    os.chown(folder, HIM, HIM)
    home = Home(guard, folder)
    yield home
    for pid in running(home.program):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def as_user(
    uid: int, source: str, *words: str, environ: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """A script of a user's, which says ``ready``. The interpreter may be unreadable for that user."""
    modules = "import fcntl, os, random, resource, shutil, signal, sys, time"
    become = f"{modules}\nos.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
    command = [sys.executable, "-c", become + source, *words]
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, text=True, cwd="/", env=environ
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
            yield process
        finally:
            process.kill()


def test_honest_use_of_a_users_folder(home: Home) -> None:
    """Started, relaunched, watched and stopped; what root makes there is the user's, and not for others."""
    guard = home.configure(f'log_file = "{home.folder}/logs/app.log"\n')
    assert guard("start").code == 0
    (pid,) = home.pids()
    assert process_table.owner(pid) == HIM
    for path in (home.lock, home.state):
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (HIM, 0o600)
    assert (home.folder / "logs").stat().st_uid == HIM
    kill_dead(pid)
    assert "relaunched" in guard("restart").out
    with watching(guard):
        (pid,) = home.pids()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: home.pids() not in ([], [pid]), what="another instance")
    assert guard("stop").code == 0
    assert home.pids() == []


def test_files_of_root_from_before_are_told_or_taken(home: Home) -> None:
    """An older version made lock, record and log there as root."""
    for name in (".run.sh.lock", ".run.sh.state", "run.sh.pid", "app.log"):
        (home.folder / name).write_text("1\n")
        (home.folder / name).chmod(0o644)
    guard = home.configure(f'log_file = "{home.folder}/app.log"\n')
    done = guard("start")
    assert done.code == 1
    assert "it belongs to root, and the program runs as nobody" in done.err
    assert "cannot be written by the user it runs as" in guard("doctor").out
    os.chown(home.folder / "app.log", HIM, HIM)
    assert guard("start").code == 0
    assert "cannot be written" not in guard("doctor").out
    assert guard("stop").code == 0


def place_log_link(home: Home) -> None:
    home.link("app.log", home.secret)


def place_state_link(home: Home) -> None:
    home.link(".run.sh.state", home.secret)
    (home.folder / ".run.sh.state.new").mkdir()


def place_dangling_lock(home: Home) -> None:
    home.link(".run.sh.lock", home.root / "nologin")


def place_pid_link(home: Home) -> None:
    home.link("run.sh.pid", home.secret)
    home.link("run.sh.pid.new", home.root / "new")


def place_lock_link(home: Home) -> None:
    home.link(".run.sh.lock", home.secret)


def place_environment_link(home: Home) -> None:
    home.link("env", home.secret)


LINKS = [place_log_link, place_state_link, place_dangling_lock, place_pid_link, place_lock_link, place_environment_link]


@pytest.mark.parametrize("place", LINKS)
def test_links_lead_root_nowhere(home: Home, place: Callable[[Home], None]) -> None:
    """Whatever he puts in the place of the files, before and while it runs."""
    home.write("env", "NAME=value\n")
    guard = home.configure(f'log_file = "{home.folder}/app.log"\nenvironment_file = "{home.folder}/env"\n')
    for _ in range(2):
        place(home)
        for words in (["start"], ["restart"], ["status"], ["doctor"], ["restart", "--cold"], ["stop"], ["kill"]):
            done = guard(*words)
            assert done.code != 70
            assert SECRET.strip() not in done.out + done.err
            assert home.is_untouched()
        for path in (*home.folder.glob(".run.sh.*.new"), home.folder / "run.sh.pid"):
            if path.is_dir():
                path.rmdir()
        assert guard("start").code in (0, 1)
    guard("stop", "--force")


FIFOS = ".run.sh.lock .run.sh.state run.sh.pid .run.sh.state.new run.sh.pid.new env app.log run.sh".split()  # noqa: SIM905


@pytest.mark.parametrize("name", FIFOS)
def test_nothing_of_his_holds_root_up(home: Home, name: str) -> None:
    """A FIFO in any place: every command comes back, and the other targets are looked after."""
    home.write("env", "NAME=value\n")
    guard = home.configure(f'log_file = "{home.folder}/app.log"\nenvironment_file = "{home.folder}/env"\n')
    assert guard("start").code == 0
    home.fifo(name)
    begun = time.monotonic()
    for words in (["restart"], ["kill"], ["restart"], ["status"], ["doctor"], ["stop", "--force"]):
        assert guard(*words).code != 70
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("what", ["/dev/zero", "/proc/kmsg", "/dev/tty", "a folder"])
def test_an_environment_file_is_a_file_of_bounded_size(home: Home, what: str) -> None:
    """Neither a device without end nor another's secret is handed to the program."""
    if what == "a folder":
        (home.folder / "env").mkdir()
    else:
        home.link("env", what)
    done = home.configure(f'environment_file = "{home.folder}/env"\n')("start")
    assert done.code == 1
    assert "environment_file" in done.err


def test_a_large_environment_file_is_told(home: Home) -> None:
    """Its size is bounded."""
    home.write("env", "A=" + "x" * (2 << 20))
    done = home.configure(f'environment_file = "{home.folder}/env"\n')("start")
    assert (done.code, "larger than" in done.err) == (1, True)


def test_a_log_that_is_swapped_before_the_end_shows_nothing(home: Home) -> None:
    """The end of a log is told when a program ends early."""
    home.write("run.sh", f"cd {home.folder}; rm app.log; ln -s {home.secret} app.log; exit 1\n")
    done = home.configure(f'log_file = "{home.folder}/app.log"\n')("start")
    assert done.code == 1
    assert "app.log" in done.err
    assert SECRET.strip() not in done.out + done.err


def test_a_record_of_his_ends_no_process_of_others(home: Home) -> None:
    """He copies the record of another target, or links to it, or to a log that root writes his text into."""
    others = home.guard.directory / "other.sh"
    others.write_text(LOOP)
    guard = home.configure(f'[targets.other]\nprogram = "{others}"\ncommand = "/bin/sh {{program}}"\n')
    assert guard("start").code == 0
    (other,) = running(others)
    record = home.guard.directory / ".other.sh.state"
    copy = record.read_text()
    record.chmod(0o644)
    home.write("copy", copy)
    for place in ("copied", "linked", "hard"):
        for words in (["restart", "app"], ["stop", "app"], ["kill", "app"], ["restart", "--cold", "app"]):
            home.state.unlink(missing_ok=True)
            if place == "copied":
                home.write(".run.sh.state", copy).chmod(0o600)
            elif place == "linked":
                home.link(".run.sh.state", record)
            else:
                home.state.hardlink_to(record)
            home.write("run.sh.pid", f"{other}\n")
            assert guard(*words).code != 70
            assert running(others) == [other], (place, words)
    home.state.unlink(missing_ok=True)
    assert guard("stop", "--force").code == 0


def test_a_program_that_leads_elsewhere_gives_him_no_rights_there(home: Home) -> None:
    """Root's daemon is neither adopted nor ended, and its pid file is neither written nor removed."""
    daemon = home.root.parent / "daemon"
    daemon.write_text(LOOP)
    pid_file = home.root.parent / "daemon.pid"
    with subprocess.Popen(["/bin/sh", daemon]) as running_daemon:
        try:
            pid_file.write_text(f"{running_daemon.pid}\n")
            for path in (daemon, pid_file):
                path.chmod(0o644)
            home.program.unlink()
            home.link("run.sh", daemon)
            guard = home.configure()
            for words in (["restart"], ["start"], ["stop", "--force"], ["kill"], ["restart", "--cold"], ["restart"]):
                assert guard(*words).code != 70
                assert running_daemon.poll() is None, words
                assert pid_file.read_text() == f"{running_daemon.pid}\n"
        finally:
            running_daemon.kill()


def test_removing_the_record_does_not_switch_off_the_backoff(home: Home) -> None:
    """A program that removes its record as it dies is held back like any other, and told of."""
    home.write("run.sh", f"echo x >> {home.folder}/runs; rm -f {home.state}; exit 1\n")
    options = 'restart_backoff = { base = "200ms", max = "1h" }\n'
    guard = home.guard.configure(
        f'[targets.app]\nprogram = "{home.program}"\ncommand = "/bin/sh {{program}}"\nuser = "nobody"\n{options}'
    )
    home.write("run.sh.pid", "1\n")
    guard("watch", "--for", "4s")
    assert 3 <= (home.folder / "runs").read_text().count("x") <= 6
    assert "relaunches in a row" in guard("status").out


CONFIGS = [
    ("config 0666", 'user = "nobody"\n', "others than root can write"),
    ("config of a user", 'user = "nobody"\n', "belongs to user nobody"),
    ("state of a user", 'user = "nobody"\n', "belongs to user nobody"),
    ("no user", "", 'expected user = "nobody"'),
    ("user root", 'user = "root"\n', 'expected user = "nobody"'),
]


@pytest.mark.parametrize(("what", "user", "told"), CONFIGS, ids=[row[0] for row in CONFIGS])
@pytest.mark.parametrize("words", [["restart"], ["status"], ["start"], ["doctor"], ["install-timer", "--dry-run"]])
def test_root_takes_nothing_that_others_decide(home: Home, what: str, user: str, told: str, words: list[str]) -> None:
    """One sentence that says what to do, exit code 2, nothing started."""
    guard = home.configure(user=user)
    if what == "config 0666":
        guard.config.chmod(0o666)
    elif what == "config of a user":
        os.chown(guard.config, HIM, HIM)
    elif what == "state of a user":
        (home.folder / "state").mkdir()
        os.chown(home.folder / "state", HIM, HIM)
        text = guard.config.read_text().replace('state_dir = "state"', f'state_dir = "{home.folder}/state"')
        guard.config.write_text(text)
    done = guard(*words)
    assert done.code == 2, done
    assert told in done.err
    assert home.pids() == []


def test_root_by_another_name_is_root(home: Home, tmp_path: Path) -> None:
    """A second account with uid 0 gives nobody's program root's rights either."""
    passwd = tmp_path / "passwd"
    passwd.write_text(f"{Path('/etc/passwd').read_text()}toor:x:0:0::/root:/bin/sh\n")
    guard = home.configure(user='user = "toor"\n')
    words = " ".join(map(shlex.quote, guard.command("start")))
    script = f"mount --bind {passwd} /etc/passwd && {words}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], env=guard.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done
    assert 'expected user = "nobody"' in done.stderr
    assert running(home.program) == []


def test_links_in_a_circle_are_told(home: Home) -> None:
    """A mistake of root's own: a sentence for that target, no traceback."""
    home.root.chmod(0o755)
    (home.root / "a.sh").symlink_to("b.sh")
    (home.root / "b.sh").symlink_to("a.sh")
    guard = home.guard.configure(f'[targets.app]\nprogram = "{home.root}/a.sh"\ncommand = "/bin/sh {{program}}"\n')
    for words in (["status"], ["restart"], ["start"], ["doctor"]):
        assert guard(*words).code in (0, 1, 3), words


def test_an_account_that_is_gone_is_told_for_its_target_alone(home: Home) -> None:
    """Other targets are looked after."""
    other = home.guard.directory / "other.sh"
    other.write_text(LOOP)
    more = f'[targets.other]\nprogram = "{other}"\ncommand = "/bin/sh {{program}}"\n'
    done = home.configure(more, user='user = "nobody-here"\n')("start")
    assert done.code == 1
    assert "there is no user nobody-here" in done.err
    assert len(running(other)) == 1
    assert home.guard("stop", "--force", "other").code == 0


def test_an_alert_goes_out_without_the_log_of_an_account_that_is_gone(home: Home) -> None:
    """The user was removed while his program kept dying: the event and its alert are not lost for that."""
    guard = home.configure(
        'log_file = "app.log"\n[wecom]\nwebhook = "a-key-of-no-robot-01"\n', 'user = "nobody-here"\n'
    )
    config = config_file.load(guard.config, {})
    events.record(config, [ActionResult("app", ok=False, text="", event="failed to start: x", crashes=3)])
    with Journal.open(config.state_dir) as journal:
        (alert,) = journal.undelivered("wecom")
    assert "app" in alert.payload["text"]
    assert "its last words" not in alert.payload["text"]


FLOCK = """
for path in sys.argv[1:]:
    try:
        file = open(path)
        fcntl.flock(file, fcntl.LOCK_EX)
        globals()[path] = file
    except OSError:
        pass
print('ready', flush=True)
time.sleep(300)
"""


def test_a_neighbour_cannot_hold_the_lock(home: Home) -> None:
    """He has locked all that he can open; the program is relaunched and stopped all the same."""
    guard = home.configure()
    assert guard("start").code == 0
    with as_user(NEIGHBOUR, FLOCK, *map(str, home.folder.iterdir()), str(home.folder)):
        (pid,) = home.pids()
        kill_dead(pid)
        assert "relaunched" in guard("restart").out
        assert guard("stop").code == 0
        assert guard("start").code == 0
        assert guard("stop").code == 0


def test_an_old_lock_file_that_all_can_open_is_narrowed(home: Home) -> None:
    """One that another version made with mode 0644."""
    home.write(".run.sh.lock", "\n").chmod(0o644)
    assert home.configure()("start").code == 0
    assert stat.S_IMODE(home.lock.stat().st_mode) == 0o600
    assert home.guard("stop").code == 0


@pytest.mark.parametrize("by", ["ticks", "a watch"])
def test_who_holds_the_lock_for_long_is_named(home: Home, by: str) -> None:
    """A process of the account's own does: a command by hand says so, and when a stop and a start would long be done it
    is news, once."""
    guard = home.configure(options='start_timeout = "100ms"\n')
    text = guard.config.read_text().replace('stop_timeout = "2s"', 'stop_timeout = "100ms"')
    guard.config.write_text(text)
    assert guard("start").code == 0
    with as_user(HIM, FLOCK, str(home.lock)) as holder:
        (pid,) = home.pids()
        os.kill(pid, signal.SIGKILL)
        said = f"(pid {holder.pid} of user nobody)"
        if by == "ticks":
            done = guard("restart")
            assert (done.code, done.out, home.pids()) == (0, "", [])
            wait_until(lambda: said in guard("restart").err, what="the news")
        else:
            done = guard("watch", "--for", "3s")
            assert (done.out + done.err).count("it is not looked after") == 1
        news = [event for event in guard("history", "--json").json if said in event["detail"]]
        assert [event["status"] for event in news] == ["failure"]
        done = guard("start")
        assert (done.code, said in done.err) == (75, True)
    assert "relaunched" in guard("restart").out
    assert guard("stop").code == 0


LOOKALIKE = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("what", ["arguments", "mark", "ticket", "number"])
def test_a_neighbours_process_is_never_the_program_nor_its_kin(home: Home, what: str) -> None:
    """With the same arguments, the mark or the ticket of the launch, and TERM ignored: the dead program is relaunched,
    a stop is not held up, and it is not signalled."""
    guard = home.configure()
    assert guard("start").code == 0
    (pid,) = home.pids()
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (ticket,) = [word.partition(b"=")[2].decode() for word in words if word.startswith(b"RESTART_GUARD_LAUNCH=")]
    environ = {
        "mark": {"RESTART_GUARD_PROGRAM": str(home.program)},
        "ticket": {"RESTART_GUARD_LAUNCH": ticket, "RESTART_GUARD_PROGRAM": str(home.program)},
    }.get(what, {})
    source = LOOKALIKE
    if what == "number":
        source = f"resource.setrlimit(10, ({int(ticket, 16)}, resource.RLIM_INFINITY))\n{LOOKALIKE}"
    if what == "arguments":
        source = f"print('ready', flush=True)\nos.execv('/bin/sh', ['/bin/sh', {str(home.program)!r}])"
    with as_user(NEIGHBOUR, source, environ=environ) as neighbour:
        kill_dead(pid)
        assert "relaunched" in guard("restart").out
        (again,) = home.pids()
        assert home.pid_lock.read_text() == f"{again}\n"
        assert "ended orphans" not in guard("restart", "--cold").out
        assert guard("kill").code == 0
        assert guard("restart").code == 0
        assert guard("stop", "--force").code == 0
        assert home.pids() == []
        assert neighbour.poll() is None


def test_a_record_that_a_member_of_the_group_writes_is_no_record(home: Home) -> None:
    """In a folder of a group: it names a session of ours that has nothing to do with the program."""
    os.chown(home.folder, 0, NEIGHBOUR)
    home.folder.chmod(0o2775)
    guard = home.configure()
    os.chown(home.folder, HIM, NEIGHBOUR)
    assert guard("start").code == 0
    with as_user(HIM, LOOKALIKE.replace("signal.SIG_IGN", "signal.SIG_DFL")) as bystander:
        record = json.loads(home.state.read_text())
        started = process_table.facts(bystander.pid)
        assert started is not None
        record["process"][:2] = [bystander.pid, started.started]
        record["family"][0][:2] = [bystander.pid, started.started]
        record["family"][1] = ""
        home.state.unlink()
        home.write(".run.sh.state", json.dumps(record)).chmod(0o600)
        os.chown(home.state, NEIGHBOUR, NEIGHBOUR)
        (pid,) = home.pids()
        for words in (["restart"], ["kill"], ["restart"], ["restart", "--cold"], ["stop", "--force"]):
            assert guard(*words).code == 0
            assert bystander.poll() is None, words
        assert home.pids() == []
        assert pid


VANDAL = """
folder, secret, seed, program = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
chance = random.Random(seed)
os.chdir(folder)
names = 'run.sh run.sh.pid run.sh.pid.new .run.sh.lock .run.sh.state .run.sh.state.new app.log env'.split()
texts = ['', '1\\n', str(os.getppid()) + '\\n', str(os.getpid()) + '\\n', program, '{}', 'A=b\\n', '\\0' * 5000]
records = ['']

def read(name):
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, 5000).decode()
    finally:
        os.close(fd)

def remove(name):
    if os.path.isdir(name) and not os.path.islink(name):
        os.chmod(name, 0o700)
        shutil.rmtree(name)
    elif os.path.lexists(name):
        os.unlink(name)

def write(name):
    with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o600), 'w') as file:
        file.write(chance.choice(texts + records))

def replace(name):
    remove(name)
    how = chance.randrange(8)
    if how == 0: os.symlink(secret, name)
    elif how == 1: os.symlink(os.path.dirname(secret) + '/new-' + str(chance.random()), name)
    elif how == 2: os.mkfifo(name)
    elif how == 3: os.mkdir(name)
    elif how == 4: os.symlink(chance.choice(names), name)
    elif how == 5: os.symlink('/dev/zero', name)
    elif how == 6: os.link(chance.choice(names), name)
    else: write(name)
    if chance.random() < 0.2: os.chmod(name, chance.choice([0, 0o600, 0o644, 0o666, 0o4755]))

print('ready', flush=True)
while True:
    name = chance.choice(names)
    try:
        chance.choice([remove, write, replace, replace])(name)
        if chance.random() < 0.3:
            remove('run.sh'); open('run.sh', 'w').write(program)
        if chance.random() < 0.1:
            records.append(read('.run.sh.state'))
        if chance.random() < 0.02:  # now and then all is as it should be
            for name in names:
                remove(name)
            open('run.sh', 'w').write(program)
            open('env', 'w').write('A=b\\n')
            time.sleep(1.5 * chance.random())
    except (OSError, ValueError, shutil.Error):
        pass
    time.sleep(chance.random() * 0.01)
"""


def tree(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Owner, group, mode and content of all below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = (status.st_uid, status.st_gid, status.st_mode, content)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_at_random_a_user_who_replaces_everything_gains_nothing(home: Home) -> None:
    """Twenty seconds, or as long as RANDOM_SECONDS says: nothing of root's changes, nobody else's process ends, no
    command takes longer than ten seconds."""
    seed = time.time_ns()
    print("seed", seed)
    chance = random.Random(seed)
    for name, mode in {"a": 0o600, "b": 0o644, "c": 0o755}.items():
        path = home.root / name
        path.write_text(name * 100)
        path.chmod(mode)
    home.root.chmod(0o755)
    home.write("env", "NAME=value\n")
    before = tree(home.root)
    guard = home.configure(f'log_file = "{home.folder}/app.log"\nenvironment_file = "{home.folder}/env"\n')
    deadline = time.monotonic() + float(os.environ.get("RANDOM_SECONDS", "20"))
    commands = [
        ["start"],
        ["stop", "--force"],
        ["kill"],
        ["restart", "--cold"],
        ["status"],
        ["doctor"],
        *[["restart"]] * 4,
    ]
    with (
        as_user(NEIGHBOUR, "print('ready', flush=True)\ntime.sleep(900)\n", str(home.program)) as neighbour,
        as_user(0, "print('ready', flush=True)\ntime.sleep(900)\n", str(home.program)) as root,
        as_user(HIM, VANDAL, str(home.folder), str(home.secret), str(seed), LOOP),
    ):
        launched = 0
        while time.monotonic() < deadline:
            words = chance.choice(commands)
            begun = time.monotonic()
            done = guard(*words)
            took = time.monotonic() - begun
            assert took < 10, (words, took)
            assert done.code in (0, 1, 3, 4, 75), (words, done)
            assert SECRET.strip() not in done.out + done.err
            launched += "started" in done.out or "relaunched" in done.out
            assert tree(home.root) == before, words
            assert neighbour.poll() is None
            assert root.poll() is None
    assert launched > 0
    assert guard("stop", "--force").code in (0, 1)
