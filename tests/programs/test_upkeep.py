"""Logs that are rotated under a program that goes on writing, and programs that use too much memory."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from restart_guard.config import load
from restart_guard.host import process_table, rotation
from restart_guard.host.files import Files
from restart_guard.host.rotation import rotate
from restart_guard.programs import processes, upkeep
from restart_guard.programs.observe import observe
from restart_guard.programs.target import Observation, Target, target_of
from restart_guard.sizes import Size, size
from tests.conftest import Guard
from tests.support.servers import wait_until

WRITER = (
    "import os, sys, time\n"
    "fd, number = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), 0\n"
    "end = time.monotonic() + float(sys.argv[2])\n"
    "while time.monotonic() < end:\n"
    "    os.write(fd, b''.join(b'%09d %s\\n' % (number + one, b'x' * 90) for one in range(100)))\n"
    "    number += 100\n"
    "    time.sleep(0.001)\n"
    "print(number)\n"
)


def numbers(folder: Path, name: str) -> list[int]:
    """The lines of all parts, oldest first."""
    parts = sorted(folder.glob(f"{name}.[0-9]*"), key=lambda path: -int(path.suffix[1:]))
    found = []
    for path in [*parts, folder / name]:
        for line in path.read_bytes().splitlines():
            if line.strip() and not line.startswith(b"[the lines before"):
                assert len(line) == 100, (path, line)
                found.append(int(line[:9]))
    return found


@pytest.mark.process
@pytest.mark.parametrize("can_cut", [True, False], ids=["cut", "truncated"])
def test_no_line_is_lost_under_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, can_cut: bool) -> None:
    """10 MB/s for three seconds, rotated all the time: each line is there once and whole. Where the file can only be
    truncated, what is written between the last copy and that is lost."""
    if not can_cut:
        monkeypatch.setattr(rotation, "_cut", lambda *_: False)
    path, rotations = tmp_path / "run.log", 0
    command = [sys.executable, "-c", WRITER, str(path), "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as writer:
        wait_until(path.exists, what="the log")
        while writer.poll() is None:
            if path.stat().st_size > 1_000_000:
                why = rotate(Files(), path, 1_000_000, 1000)
                assert why == ""
                rotations += 1
            time.sleep(0.01)
        assert writer.stdout is not None
        count = int(writer.stdout.read())
    assert rotations > 5
    assert count > 50_000
    found = numbers(tmp_path, "run.log")
    if can_cut and not is_cut_here(tmp_path):
        pytest.skip("this file system cannot cut blocks out of a file")
    lost = count - len(found)
    assert found == sorted(set(found))
    assert lost == 0 if can_cut else lost <= 100 * rotations


def is_cut_here(folder: Path) -> bool:
    path = folder / "probe"
    path.write_bytes(b"x\n" * 100_000)
    fd = os.open(path, os.O_RDWR)
    try:
        return rotation._cut(fd, 190_000, os.fstat(fd).st_blksize, "p.1")
    finally:
        os.close(fd)


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    """The oldest goes; a short log, one without a line's end and an empty one are rotated too."""
    path = tmp_path / "run.log"
    for number in range(5):
        path.write_text(f"{number}\n")
        assert rotate(Files(), path, 0, 3) == ""
        assert path.read_bytes() == b""
    assert sorted(one.name for one in tmp_path.iterdir()) == ["run.log", "run.log.1", "run.log.2", "run.log.3"]
    assert [(tmp_path / f"run.log.{number}").read_text() for number in (1, 2, 3)] == ["4\n", "3\n", "2\n"]
    path.write_bytes(b"y" * 3_000_000)
    assert rotate(Files(), path, 0, 3) == ""
    assert (tmp_path / "run.log.1").stat().st_size == 3_000_000


def test_a_disk_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the log stays as it is, and that is told."""
    path = tmp_path / "run.log"
    path.write_text("line\n")
    monkeypatch.setattr(rotation, "_LEAST_FREE", 1 << 62)
    assert "its copy of 5B would fill the disk" in rotate(Files(), path, 0, 3)
    assert [one.name for one in tmp_path.iterdir()] == ["run.log"]
    assert path.read_text() == "line\n"


@pytest.mark.process
def test_a_full_disk(small_disk: Path) -> None:
    """Nothing is lost, and no half copy is left."""
    path = small_disk / "run.log"
    free = os.statvfs(small_disk)
    path.write_bytes(b"0123456789\n" * (free.f_bavail * free.f_frsize // 2 // 11))
    before = path.read_bytes()
    assert "would fill the disk" in rotate(Files(), path, 0, 3)
    assert path.read_bytes() == before
    assert [one.name for one in small_disk.iterdir() if "run" in one.name] == ["run.log"]


@pytest.fixture
def noisy(guard: Guard) -> Iterator[Guard]:
    """A program that writes much, or uses much, by what its config says."""
    yield guard
    guard("stop", "--force", "--timeout", "0s")


@pytest.mark.process
def test_a_tick_rotates(noisy: Guard) -> None:
    """The program goes on, in the same file."""
    (noisy.directory / "run.py").write_text(
        "import time\nwhile True:\n    print('x' * 99, flush=True)\n    time.sleep(0.0005)\n"
    )
    noisy.configure('[targets.web]\nprogram = "run.py"\nlog_file = "run.log"\nlog_max_size = "50kB"\nlog_keep = 2\n')
    assert noisy("start").code == 0
    log = noisy.directory / "run.log"
    for _ in range(4):
        wait_until(lambda: log.stat().st_size > 50_000, what="output")
        assert noisy("restart").code == 0
        assert log.stat().st_size < 50_000
    assert sorted(one.name for one in noisy.directory.glob("run.log*")) == ["run.log", "run.log.1", "run.log.2"]
    assert noisy("status", "--json").json[0]["restarts"] == 0
    noisy.configure('[targets.web]\nprogram = "run.py"\nlog_max_size = "50kB"\n')
    assert "targets.web.log_max_size: expected a log_file too" in noisy("status").err


@pytest.mark.process
def test_a_log_that_is_a_link_of_another_is_left(tmp_path: Path) -> None:
    """And a folder or a FIFO in its place is told."""
    (tmp_path / "fifo").mkdir()
    os.mkfifo(tmp_path / "run.log")
    assert "cannot be rotated" in rotate(Files(), tmp_path / "run.log", 0, 3)
    assert "cannot be rotated" in rotate(Files(), tmp_path / "fifo", 0, 3)


@pytest.mark.process
def test_logs_are_shown_and_followed_across_a_rotation(noisy: Guard) -> None:
    """The last lines, then what comes."""
    (noisy.directory / "run.py").write_text(
        "import time\nfor number in range(100000):\n"
        "    print('line', number, 'x' * 80, flush=True)\n    time.sleep(0.002)\n"
    )
    off = '[targets.off]\nprogram = "o.py"\n'
    noisy.configure(f'[targets.web]\nprogram = "run.py"\nlog_file = "run.log"\nlog_max_size = "20kB"\n{off}')
    assert noisy("start", "web").code == 0
    log = noisy.directory / "run.log"
    wait_until(lambda: log.stat().st_size > 2000, what="output")
    shown = noisy("logs", "web", "-n", "3").out.splitlines()
    assert len(shown) == 3
    assert all(line.startswith("line ") for line in shown)
    assert "off has no log_file" in noisy("logs", "off").err
    with noisy.popen("logs", "-f", "-n", "1") as follower:
        try:
            assert follower.stdout is not None
            first = int(follower.stdout.readline().split()[1])
            wait_until(lambda: log.stat().st_size > 20_000, what="more output")
            assert noisy("restart").code == 0
            last = first
            while last < first + 600:
                words = follower.stdout.readline().split()
                if words[:1] == ["line"]:
                    assert int(words[1]) > last
                    last = int(words[1])
        finally:
            follower.kill()
    assert (noisy.directory / "run.log.1").exists()


@pytest.mark.process
def test_logs_of_a_job(guard: Guard) -> None:
    """By the name of its command; another is a usage error."""
    guard.configure('[checks.c]\nkeys = ["k"]\n')
    folder = guard.state / "logs"
    folder.mkdir(parents=True)
    (folder / "get_redis_data.log").write_text("one\ntwo\n")
    (folder / "crontab_error.log").write_text("trouble\n")
    done = guard("logs", "--job", "check-redis", "-n", "1")
    assert done.out.splitlines() == [
        f"==> {folder}/get_redis_data.log <==",
        "two",
        f"==> {folder}/crontab_error.log <==",
        "trouble",
    ]
    done = guard("logs", "--job", "check-rdis")
    assert (done.code, "did you mean check-redis?" in done.err) == (2, True)


@pytest.mark.process
@pytest.mark.parametrize("step", ["_shift", "_cut"])
def test_a_rotation_that_is_killed_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Before the copy is in its place, or before the log is cut: the next one goes on from there."""
    path = tmp_path / "run.log"
    path.write_text("".join(f"{number:09d} {'x' * 90}\n" for number in range(20_000)))

    class Killed(BaseException):
        pass

    def die(*_: object) -> bool:
        raise Killed

    with monkeypatch.context() as broken:
        broken.setattr(rotation, step, die)
        with pytest.raises(Killed):
            rotate(Files(), path, 0, 5)
    assert rotate(Files(), path, 0, 5) == ""
    assert set(numbers(tmp_path, "run.log")) == set(range(20_000))


def test_what_is_in_the_way_loses_nothing(tmp_path: Path) -> None:
    """A folder where a kept one is to go: told, and the log is as it was."""
    path = tmp_path / "run.log"
    path.write_text("line\n")
    (tmp_path / "run.log.1").write_text("older\n")
    (tmp_path / "run.log.2").write_text("older still\n")
    (tmp_path / "run.log.3").mkdir()
    (tmp_path / "run.log.3/x").touch()
    assert "cannot be rotated: Is a directory" in rotate(Files(), path, 0, 3)
    assert path.read_text() == "line\n"
    assert not (tmp_path / "run.log.new").exists()


@pytest.mark.process
def test_two_rotate_at_once(tmp_path: Path) -> None:
    """A tick and a watch, or two targets with one log: one does it, and no line is lost."""
    path = tmp_path / "run.log"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom restart_guard.host.files import Files\n"
        "from restart_guard.host.rotation import rotate\nend = time.monotonic() + 3\n"
        "while time.monotonic() < end:\n    rotate(Files(), Path(sys.argv[1]), 300000, 1000)\n    time.sleep(0.01)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), "3"], stdout=subprocess.PIPE, encoding="utf-8")
    wait_until(path.exists, what="the log")
    rotators = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [one.wait() for one in rotators] == [0, 0, 0]
    count = int(writer.communicate()[0])
    found = numbers(tmp_path, "run.log")
    if not is_cut_here(tmp_path):
        pytest.skip("this file system cannot cut blocks out of a file")
    assert found == list(range(count))


@pytest.mark.process
def test_too_much_memory_three_times_running(noisy: Guard) -> None:
    """Of the whole family; told as such, and gracefully. A tick and a watch in one minute are one look."""
    child = "import time; held = bytearray(80_000_000); time.sleep(1000)"
    text = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])\n"
    (noisy.directory / "run.py").write_text(text)
    noisy.configure('[targets.web]\nprogram = "run.py"\nmax_memory = "60MB"\nmin_uptime = "50ms"\n')
    assert noisy("start").code == 0
    config = load.load(noisy.config, {})
    target = target_of(config, "web")
    wait_until(lambda: looked(target).family is not None and used(target) > 60_000_000, what="its memory")
    before = noisy("status", "--json").json[0]["pid"]
    assert [upkeep.weigh(target, looked(target)) for _ in range(5)] == [None] * 5
    assert target.lock.recorded(process_table.boot_id()).heavy_looks == 1
    for number, text in enumerate(["", "of memory, max_memory is 60MB"]):
        with target.lock.held(wait_s=5):
            record = target.lock.recorded(process_table.boot_id())
            target.lock.record(msgspec.structs.replace(record, heavy_at=record.heavy_at - 60))
        done = noisy("restart")
        assert (text in done.out, bool(done.out)) == (True, number == 1)
    assert noisy("status", "--json").json[0]["pid"] != before


def looked(target: Target) -> Observation:
    return observe([target], search_stopped=False)[target.name]


def used(target: Target) -> int:
    family = looked(target).family
    return 0 if family is None else sum(process_table.resident(one.pid) for one in processes.family_of(family))


@pytest.mark.process
def test_a_log_that_cannot_be_rotated_is_told_once(noisy: Guard) -> None:
    """No tick fails for it."""
    (noisy.directory / "run.py").write_text("import time\nprint('x' * 5000, flush=True)\ntime.sleep(1000)\n")
    noisy.configure('[targets.web]\nprogram = "run.py"\nlog_file = "run.log"\nlog_max_size = "1kB"\n')
    (noisy.directory / "run.log.new").mkdir()
    (noisy.directory / "run.log.new/x").touch()
    assert noisy("start").code == 0
    wait_until(lambda: (noisy.directory / "run.log").stat().st_size > 1000, what="output")
    first, second = noisy("restart"), noisy("restart")
    assert (first.code, "cannot be rotated" in first.out, first.err) == (0, True, "")
    assert (second.code, second.out, second.err) == (0, "", "")
    assert "cannot be rotated" in noisy("doctor").out


def test_sizes() -> None:
    """As people write them; anything else is told."""
    known = {"500B": 500, "50kB": 50_000, "50MB": 50_000_000, "1.5GiB": 1_610_612_736, "2 TB": 2 * 10**12}
    assert {text: Size.parse(text) for text in known} == known
    for text in ("", "50", "MB", "-1MB", "0MB", "1XB", "1mb", 50):
        with pytest.raises(ValueError):  # noqa: PT011 (it has no text of its own)
            Size.parse(text)
    assert [size(number) for number in (1, 999, 1500, 812_345_678, 3 * 10**12)] == [
        "1B",
        "999B",
        "1.5kB",
        "812MB",
        "3TB",
    ]
