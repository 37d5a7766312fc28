"""A full disk and a read-only state directory: a sentence, an exit code, and the alert goes out all the same."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Database, Guard, job
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import RedisServer


def fill(directory: Path) -> None:
    """Take every last byte."""
    with (directory / "filler").open("ab") as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    os.write(file.fileno(), b"x" * size)
            except OSError:
                continue


@pytest.mark.parametrize("when", ["before the first run", "later"])
def test_a_full_disk(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom, small_disk: Path, when: str
) -> None:
    """The row and the alert go out directly, the alert says that the journal could not be written."""
    database.make_six_columns()
    guard.configure(job(redis_server, database, wecom, "retries = 0"))
    if when == "later":
        with redis_server.client() as client:
            client.set("your_data_key", "x")
        assert guard("check-redis").code == 0
        with redis_server.client() as client:
            client.delete("your_data_key")
    fill(small_disk)
    done = guard("check-redis", "--json")
    assert done.code == 1
    assert "disk is full" in done.err or "No space left" in done.err
    assert "Free some space." in done.err
    assert "Traceback" not in done.err
    assert done.json[0]["delivered"] == {"mysql": True, "wecom": True}
    assert database.statuses()[-1] == "失败"
    assert len(wecom.messages) == 1
    assert "本机日志库不可写" in wecom.texts[0].splitlines()[0]
    if when == "later":
        assert len(guard.history()) == 1
    (small_disk / "filler").unlink()
    assert guard("check-redis").code == 1
    assert "fail" not in guard("doctor").out


def test_a_read_only_state_directory(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom, small_disk: Path
) -> None:
    """Also with good data: nobody would notice otherwise that nothing is recorded. History can still be read."""
    database.make_six_columns()
    guard.configure(job(redis_server, database, wecom, "retries = 0"))
    guard("check-redis")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with redis_server.client() as client:
        client.set("your_data_key", "x")
    done = guard("check-redis")
    assert done.code == 1
    assert "cannot be written" in done.err
    assert "Traceback" not in done.err
    assert database.statuses() == ["失败", "成功"]
    assert wecom.texts[1].startswith("【故障】restart-guard 日志库不可写，结果未记录（Redis 数据 metadata 正常）")
    assert len(guard.history()) == 1
    assert guard("deliver").code in (0, 1)
    doctor = guard("doctor")
    assert doctor.code == 1
    assert "fail  The journal" in doctor.out


def test_two_at_once_on_a_read_only_disk(guard: Guard, redis_server: RedisServer, small_disk: Path) -> None:
    """The lock works without writing."""
    guard.configure(job(redis_server, None, None, "retries = 1\nrecover = \"command:sh -c 'touch in; sleep 30'\""))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with guard.popen("check-redis") as first:
        while not (guard.directory / "in").exists():
            assert first.poll() is None
        assert guard("check-redis").code == 75
        first.kill()


def test_a_full_log_disk_does_not_stop_the_job(guard: Guard, redis_server: RedisServer, database: Database) -> None:
    """cron's log file is on a full disk: every check still runs and is recorded, and the exit code tells."""
    database.make_six_columns()
    guard.configure(job(redis_server, database, None, "retries = 0") + '[checks.b]\nkeys = ["b"]\nretries = 0\n')
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(guard.command("check-redis"), env=guard.environ, stdout=full, stderr=full, check=False)
    assert done.returncode == 1
    assert len(database.statuses()) == 2
