"""What a hostile or broken world does: servers that answer nonsense, names that are no UTF-8, users without rights."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from restart_guard.checks import read
from restart_guard.checks.outcome import Reading
from restart_guard.config.options import Check, Redis
from restart_guard.config.secrets import Secret
from restart_guard.durations import Duration
from restart_guard.errors import StoreError
from restart_guard.redis_server import client as redis_client
from restart_guard.redis_server import persistence
from restart_guard.redis_server.wording import trouble
from tests.conftest import Database, Guard, job
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import RedisServer


@contextmanager
def scripted_redis(answer: bytes) -> Iterator[str]:
    """A server that greets the driver as Redis does and then gives the same answer to everything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    while data := client.recv(65536):
                        greeting = data.count(b"SETINFO") + data.count(b"SELECT")
                        client.sendall(b"+OK\r\n" * greeting + answer * max(0, data.count(b"*") - greeting))

        threading.Thread(target=serve, daemon=True).start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


@pytest.mark.process
@pytest.mark.parametrize(
    "answer",
    [
        b"$-1\r\n",
        b":7\r\n",
        b"*0\r\n",
        b"+\xff\xfe\r\n",
        b"*2\r\n$1\r\nx\r\n$-1\r\n",
        b"-ERR nonsense\r\n",
        b"x",
        b"*-1\r\n",
        b"*2\r\n$1\r\n7\r\n*0\r\n",  # a SCAN without end
    ],
)
@pytest.mark.parametrize("check", [{"keys": ("k",)}, {"keys": ("k",), "format": "json"}, {"patterns": ("k*",)}])
def test_any_reply_of_redis_is_a_reading(answer: bytes, check: dict[str, object]) -> None:
    """Of whatever type and content: trouble or a bad key, never a traceback, and in bounded time."""
    with scripted_redis(answer) as url:
        settings = Redis(url=Secret(key="redis.url", text=url), timeout=Duration(0.3))
        wanted = Check(**check, timeout=Duration(1))  # type: ignore[arg-type]
        reading = read.read(settings, wanted, progress=lambda _done, _total: None)
        assert isinstance(reading, Reading)
        for ask in (persistence.danger, redis_client.server_info):
            try:
                ask(settings)
            except StoreError as error:
                assert str(error) or error.code


SENTINEL_ANSWERS = [
    b"$-1\r\n",
    b"*0\r\n",
    b"*2\r\n$9\r\n127.0.0.1\r\n$3\r\n0x1\r\n",
    b"*2\r\n$11\r\n/etc/passwd\r\n$5\r\n99999\r\n",
    b"*1\r\n*2\r\n$4\r\nname\r\n$1\r\nm\r\n",
    b"-ERR \xff\xfe\r\n",
]


@pytest.mark.process
@pytest.mark.parametrize("answer", SENTINEL_ANSWERS)
def test_whatever_a_sentinel_says_is_a_reading(answer: bytes) -> None:
    """A master that is none, without a port, of nonsense: trouble in a sentence, and in bounded time."""
    with scripted_redis(answer) as url:
        place = url.removeprefix("redis://").removesuffix("/0")
        settings = Redis(sentinels=(place,), service="m", timeout=Duration(0.3))
        begun = time.monotonic()
        reading = read.read(settings, Check(keys=("k",), timeout=Duration(1)), progress=lambda _done, _total: None)
        assert time.monotonic() - begun < 10
        assert reading.trouble is not None
        assert trouble(reading.trouble, "redis m/0 (Sentinel)", "en")


@pytest.mark.process
def test_a_redis_that_drips_is_cut_off() -> None:
    """A byte now and then keeps each single wait short; the read as a whole still ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client, suppress(OSError):
                client.sendall(b"+")
                while True:
                    client.sendall(b"x")
                    time.sleep(0.1)

        threading.Thread(target=serve, daemon=True).start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        settings = Redis(url=Secret(key="redis.url", text=url), timeout=Duration(0.3))
        begun = time.monotonic()
        check = Check(keys=("k",), timeout=Duration(0.5))
        reading = read.read(settings, check, progress=lambda _done, _total: None)
        assert time.monotonic() - begun < 5
        assert reading.trouble is not None
        assert reading.trouble.code == "slow"


def test_a_state_directory_that_cannot_be_written(guard: Guard, redis_server: RedisServer, wecom: FakeWeCom) -> None:
    """Every check still runs and its alert goes out, and the reason is told."""
    if os.geteuid() != 0:
        pytest.skip("setpriv needs root")
    guard.configure(job(redis_server, None, wecom, "retries = 0") + '[checks.b]\nkeys = ["b"]\nretries = 0\n')
    guard.state.mkdir(mode=0o500)
    # root without the right to pass over permissions is a user like any other.
    limits = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    done = subprocess.run(
        [*limits, *guard.command("check-redis", "--json")],
        env=guard.environ, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "The journal" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(wecom.messages) == 2


def test_a_directory_whose_name_is_no_utf8(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom
) -> None:
    """The row's log_path and all output show it escaped; nothing is lost for it."""
    database.make_six_columns()
    odd = Path(os.fsdecode(os.fsencode(guard.directory) + b"/bad\xff"))
    odd.mkdir()
    inside = Guard(odd).configure(job(redis_server, database, wecom, "retries = 0"))
    assert inside("check-redis", "--json").json[0]["delivered"] == {"mysql": True, "wecom": True}
    assert inside("doctor", "--json").json
    assert "udcff" in database.run("SELECT log_path FROM task_monitor")[0][0]


def test_a_secret_that_is_no_utf8_is_a_sentence(guard: Guard, redis_server: RedisServer, wecom: FakeWeCom) -> None:
    """The message names the option and does not show the secret."""
    text = job(redis_server, None, wecom).replace("[wecom]", 'password = { env = "PW" }\n[wecom]')
    done = guard.configure(text)("check-redis", environ={"PW": os.fsdecode(b"abcd\xff")})
    assert done.code == 1
    assert "redis.password: the secret is not UTF-8 text" in done.out
    assert len(wecom.messages) == 1


def test_a_person_hears_of_the_alert_before_the_recovery(
    guard: Guard, redis_server: RedisServer, wecom: FakeWeCom
) -> None:
    """Also when the alert was held back for a rate limit."""
    guard.configure(job(redis_server, None, wecom, "retries = 0"))
    wecom.script.append(45009)
    guard("check-redis")
    with redis_server.client() as client:
        client.set("your_data_key", "x")
    guard("check-redis")
    assert wecom.messages == []
    assert guard("deliver").code == 0
    assert [text[:4] for text in wecom.texts] == ["【故障】", "【恢复】"]


def test_no_part_of_a_secret_is_left_by_a_cut(guard: Guard, redis_server: RedisServer, wecom: FakeWeCom) -> None:
    """The end of a command's output is redacted before it is cut and before its blanks are folded."""
    secret = "Sup3r  Secret\tRedisPassw0rd"
    (guard.directory / "pw").write_text(secret)
    (guard.directory / "say.sh").write_text("printf 'x%s%0490d' \"$(cat pw)\" 0; exit 1\n")
    text = job(redis_server, None, wecom, 'retries = 1\nrecover = "command:sh say.sh"')
    guard.configure(text.replace("[wecom]", 'sentinel_password = { file = "pw" }\n[wecom]'))
    done = guard("check-redis", "--json")
    assert "***" in done.json[0]["recoveries"][0]["said"]
    for part in ("Secret", "Passw0rd"):
        assert part not in done.out + done.err + wecom.texts[0]


def test_json_is_json_whatever_the_data_holds(guard: Guard, redis_server: RedisServer) -> None:
    """Line separators, control characters and secrets that look like JSON's own words."""
    guard.configure(f'[redis]\nurl = "{redis_server.url}"\nsentinel_password = "false"\n[checks.a]\nretries = 0\n'
                    'keys = ["a\u2028b", "é 文"]\n')  # fmt: skip
    done = guard("check-redis", "--json", environ={"PYTHONIOENCODING": "ascii"})
    assert [bad["key"] for bad in done.json[0]["bad"]] == ["a\u2028b", "é 文"]


@pytest.mark.parametrize("number", ["9", "40"])
def test_a_recovery_that_dies_of_any_signal_is_an_attempt(guard: Guard, redis_server: RedisServer, number: str) -> None:
    """The attempt is recorded as signalled, and the check goes on."""
    guard.configure(job(redis_server, None, None, f"retries = 1\nrecover = \"command:sh -c 'kill -{number} $$'\""))
    done = guard("check-redis", "--json")
    assert (done.code, done.json[0]["recoveries"][0]["how"]) == (1, "signalled")


def test_a_size_that_may_not_be_asked_is_not_good(guard: Guard, redis_server: RedisServer) -> None:
    """An ACL without STRLEN: the read has no permission, rather than an empty value passing as good."""
    with redis_server.client() as client:
        client.set("your_data_key", "")
        client.execute_command("ACL", "SETUSER", "lim", "on", ">lim-pw", "~*", "+type", "+pttl", "+select", "+ping")
    try:
        text = job(redis_server, None, None).replace("[checks", 'username = "lim"\npassword = "lim-pw"\n[checks')
        done = guard.configure(text)("check-redis", "--json")
    finally:
        with redis_server.client() as client:
            client.execute_command("ACL", "DELUSER", "lim")
    assert (done.code, done.json[0]["error"]) == (1, "NOPERM")


def test_a_user_without_a_home(guard: Guard) -> None:
    """In a container: no HOME and no entry in passwd; the config that is missing is told, no traceback."""
    if os.geteuid() != 0:
        pytest.skip("changing the user needs root")
    script = (
        "import os, sys; import restart_guard.entry as c\n"
        "os.environ.pop('HOME', 0); os.setuid(54321); sys.exit(c.run(['status']))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd="/", capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 2
    assert "No config was found" in done.stderr


def test_problems_of_every_section_are_told_together(guard: Guard) -> None:
    """One run shows the mistakes of all sections."""
    done = guard.configure('foo = 1\n[redis]\nurl = "ftp://x"\ntimeout = "0s"\n[checks.a]\n')("check-redis")
    assert done.code == 2
    assert [line.split("config.toml: ")[1].split(":")[0] for line in done.err.splitlines()] == [
        "foo", "redis.timeout", "redis.url", "checks.a.keys"
    ]  # fmt: skip


def test_the_output_of_a_recovery_is_bounded(guard: Guard, redis_server: RedisServer) -> None:
    """One that talks without end fills no disk, and the end of what it said is told."""
    text = job(redis_server, None, None, 'retries = 1\nrecover = "command:sh say.sh"\nrecover_timeout = "4s"')
    guard.configure(text)
    (guard.directory / "say.sh").write_text("while :; do head -c 1000000 /dev/zero | tr '\\0' x; echo the-end; done\n")
    folder = guard.directory / "tmp"
    folder.mkdir()
    with guard.popen("check-redis", "--json", environ={"TMPDIR": str(folder)}) as process:
        most = 0
        while process.poll() is None:
            for fd in Path(f"/proc/{process.pid}/fd").glob("*"):
                with suppress(OSError):
                    if str(fd.readlink()).startswith(str(folder)):
                        most = max(most, fd.stat().st_size)
            time.sleep(0.02)
        out = process.communicate()[0]
    said = json.loads(out)[0]["recoveries"][0]
    assert said["how"] == "timed_out"
    assert said["said"].endswith(("x", "the-end"))
    assert 1_000_000 < most < 300_000_000


LENGTHS = {
    "a line without end": b"",
    "a gigantic text": b"$99999999999\r\n",
    "a gigantic array": b"*999999999\r\n",
    "arrays in arrays": b"*1\r\n" * 100_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("what", LENGTHS)
def test_an_answer_of_redis_without_end_is_told(guard: Guard, what: str) -> None:
    """The check and the doctor end with a sentence, in time, and with 1.5 GB of memory."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer(client: socket.socket) -> None:
            with client, suppress(OSError):
                client.recv(65536)
                client.sendall(b"+" if not LENGTHS[what] else LENGTHS[what])
                while True:
                    client.sendall(b"x" * (1 << 20))

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=answer, args=(client,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        guard.configure(f'[redis]\nurl = "{url}"\ntimeout = "2s"\n[checks.a]\nkeys = ["k"]\nretries = 0\n')
        for words in (["check-redis"], ["doctor"]):
            begun = time.monotonic()
            done = limited(guard, *words)
            assert done.returncode == 1, done
            assert "redis 127.0.0.1" in done.stdout
            assert time.monotonic() - begun < 40


def limited(guard: Guard, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command that may have 1.5 GB of memory."""
    return subprocess.run(
        ["prlimit", "--as=1500000000", *guard.command(*words)],
        env=guard.environ, cwd=guard.directory, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_json_that_is_too_large_is_told_and_large_json_is_checked(guard: Guard, redis_server: RedisServer) -> None:
    """Without an object for each of its values: 60 MB of empty lists are 20 million of them."""
    with redis_server.client() as client:
        client.set("large", "[" + "[]," * 20_000_000 + "1]")
        client.set("bad", b'"' + b"x" * 20_000_000 + b'\xff"')
        client.setrange("huge", 300 << 20, "1")
    check = '[checks.a]\nkeys = ["large", "bad", "huge"]\nformat = "json"\nretries = 0\n'
    guard.configure(f'[redis]\nurl = "{redis_server.url}"\n{check}')
    done = limited(guard, "check-redis", "--json")
    assert done.returncode == 1, done.stderr
    bad = {problem["key"]: problem["reason"] for problem in json.loads(done.stdout)[0]["bad"]}
    assert set(bad) == {"bad", "huge"}
    assert "more than the 256 MiB" in bad["huge"]
