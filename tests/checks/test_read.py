"""Reading real Redis data: every transport, every judgement, every kind of trouble."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restart_guard.checks import read as reading
from restart_guard.checks.outcome import Reading
from restart_guard.config.options import Check, Redis
from restart_guard.config.secrets import Secret
from restart_guard.durations import Duration
from restart_guard.errors import Remedy, StoreError
from restart_guard.redis_server import client as redis_client
from restart_guard.redis_server import persistence
from restart_guard.redis_server.wording import trouble
from tests.conftest import Guard
from tests.support.servers import RedisServer, Sentinels, Twemproxy, free_port, resume, wait_until


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test that reads from the usual server does so on Redis 7 and on Redis 8."""
    if "redis_server" in metafunc.fixturenames:
        metafunc.fixturenames.append("redis_version")
        metafunc.parametrize("redis_version", [7, 8])


def at(url: str, **options: Any) -> Redis:
    return Redis(url=Secret(key="redis.url", text=url), **options)


def read(where: Redis, **options: Any) -> Reading:
    if "patterns" not in options:
        options.setdefault("keys", ("k",))
    return reading.read(where, Check(**options), progress=lambda _done, _total: None)


def reasons(reading: Reading) -> list[tuple[str, str]]:
    return [(bad.key, bad.code) for bad in reading.bad]


def test_every_type_is_read(redis_server: RedisServer) -> None:
    """A key of each Redis type is good with its own type and with "any", and bad with another."""
    with redis_server.client() as client:
        client.set("string", "x")
        client.hset("hash", "a", "b")
        client.rpush("list", "a")
        client.sadd("set", "a")
        client.zadd("zset", {"a": 1})
        client.xadd("stream", {"a": "b"})
    where = at(redis_server.url)
    for kind in ("string", "hash", "list", "set", "zset", "stream"):
        assert read(where, keys=(kind,), type=kind).good
        assert read(where, keys=(kind,), type=kind, min_size=1, max_size=1).good
        assert reasons(read(where, keys=(kind,), type=kind, min_size=2)) == [(kind, "small")]
        assert reasons(read(where, keys=(kind,), type="hash" if kind == "string" else "string")) == [(kind, "type")]
    assert read(where, keys=("string", "hash", "list", "set", "zset", "stream")).good


def test_missing_empty_and_undecodable_values_are_told_apart(redis_server: RedisServer) -> None:
    """Each has a reason of its own, and JSON nested too deeply is no crash."""
    with redis_server.client() as client:
        client.set("empty", "")
        client.set("json", '{"用户": [1, 2, {"a": null}]}')
        client.set("broken", '{"a": ')
        client.set("latin", b'"\xe9"')
        client.set("deep", "[" * 100_000)
        client.hset("hash", "a", "b")
    found = read(at(redis_server.url), keys=("gone", "empty", "json", "broken", "latin", "deep", "hash"), format="json")
    assert reasons(found) == [
        ("gone", "missing"), ("empty", "empty"), ("hash", "type"),
        ("broken", "json"), ("latin", "json"), ("deep", "json"),
    ]  # fmt: skip


def test_keys_behind_a_proxy_that_spreads_them(guard: Guard) -> None:
    """twemproxy closes the connection at CLIENT, INFO and SCAN, and a script sees the keys of one server only."""
    with RedisServer() as one, RedisServer() as two, Twemproxy([one.start(), two.start()]) as proxy:
        proxy.start()
        keys = tuple(f"key:{number}" for number in range(2500))
        where = f"redis://127.0.0.1:{proxy.port}/0"
        with redis.Redis(port=proxy.port, protocol=2, driver_info=None) as client:
            for key in keys:
                client.set(key, '{"a": 1}', ex=1000)
        for server in (one, two):
            with server.client() as client:
                assert 0 < client.dbsize() < len(keys)
        bounds: dict[str, Any] = {"type": "string", "min_ttl": Duration(60), "max_ttl": Duration(1000)}
        found = read(at(where), keys=keys, **bounds)
        assert (found.good, found.keys, found.least_ttl_s is not None) == (True, len(keys), True)
        assert read(at(where), keys=keys, format="json").good
        assert reasons(read(at(where), keys=("key:1", "gone"), **bounds)) == [("gone", "missing")]
        pattern = read(at(where), patterns=("key:*",))
        assert pattern.trouble is not None
        assert pattern.trouble.code == "closed"
        guard.configure(f'[redis]\nurl = "{where}"\n[checks.a]\nkeys = ["key:1"]\n')
        assert "does not answer INFO or TIME (a proxy?)" in guard("doctor").out


def test_a_replica_that_never_had_its_masters_data_is_waited_for(redis_server: RedisServer) -> None:
    """It answers with nothing, and a restart of the program that fills Redis would not help."""
    where = at(redis_server.url)
    with redis_server.client() as client:
        client.set("k", "x")
        client.replicaof("127.0.0.1", free_port())
        try:
            assert read(where).good
            found = read(where, keys=("k", "gone"))
            assert found.trouble is not None
            assert (found.trouble.code, found.remedy) == ("unsynced", Remedy.WAIT)
            assert not redis_client.wait_until_ready(where, 0.1, synced=True)
            assert redis_client.wait_until_ready(where, 0.1)
        finally:
            client.replicaof("NO", "ONE")


def test_the_servers_own_words_are_kept(redis_server: RedisServer) -> None:
    """Which command an ACL refuses, and that there is no free connection."""
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "little", "on", "nopass", "~*", "+ping", "+get")
        refused = read(at(redis_server.url, username="little", password=Secret(key="p", text="x")))
        assert refused.trouble is not None
        assert "'type' command" in trouble(refused.trouble, "redis", "en")
        before = client.config_get("maxclients")["maxclients"]
        client.config_set("maxclients", 1)
        try:
            full = read(at(redis_server.url))
        finally:
            client.config_set("maxclients", before)
    assert full.trouble is not None
    assert trouble(full.trouble, "redis", "en") == "redis has no free connection: its maxclients is reached"


def test_ttl_bounds_are_judged_to_the_millisecond(redis_server: RedisServer) -> None:
    """Keys below min_ttl, above max_ttl, too old or without an expiry are bad."""
    with redis_server.client() as client:
        client.set("short", "x", px=5_000)
        client.set("week", "x", ex=7 * 86400)
        client.set("forever", "x")
    where = at(redis_server.url)
    keys = ("short", "week", "forever")
    assert reasons(read(where, keys=keys, min_ttl=Duration(60))) == [("short", "ttl_low")]
    assert reasons(read(where, keys=keys, max_ttl=Duration(60))) == [("week", "ttl_high"), ("forever", "no_ttl")]
    aged = read(where, keys=keys, max_age=Duration(7200), full_ttl=Duration(7 * 86400 + 3600))
    assert reasons(aged) == [("short", "stale"), ("forever", "no_ttl")]


def test_patterns_are_scanned_and_counted(redis_server: RedisServer) -> None:
    """A pattern needs as many keys as it should match: what is missing does not show by itself."""
    with redis_server.client() as client:
        client.mset({f"irm:{n}": "x" for n in range(3500)})
        client.mset({f"other:{n}": "x" for n in range(100)})
        client.set("irm:bad", "")
    found = read(at(redis_server.url), patterns=("irm:*", "none:*"), type="string")
    assert found.keys == 3501
    assert reasons(found) == [("irm:bad", "empty"), ("none:*", "few")]
    assert reasons(read(at(redis_server.url), patterns=("other:*",), min_keys=101)) == [("other:*", "few")]
    assert read(at(redis_server.url), patterns=("none:*",), min_keys=0).good


def test_many_bad_keys_are_counted_and_only_some_are_kept(redis_server: RedisServer) -> None:
    """The total is exact, while memory holds a limited number of examples."""
    found = read(at(redis_server.url), keys=tuple(f"k{n}" for n in range(2500)))
    assert (found.keys, found.bad_total, len(found.bad)) == (2500, 2500, reading.EXAMPLES)


def test_names_of_any_bytes_are_shown(redis_server: RedisServer) -> None:
    """A key that is not UTF-8 is shown with escapes."""
    with redis_server.client() as client:
        client.set(b"p:\xff\n\xe4\xb8\xad", "")
    assert read(at(redis_server.url), patterns=("p:*",)).bad[0].key == "p:\\xff\n中"


def test_tls_with_and_without_the_ca(certificates: Path) -> None:
    """A private CA is trusted when it is named; a certificate that is not trusted needs a person."""
    with RedisServer(tls=certificates) as server:
        server.start()
        with server.client() as client:
            client.set("k", "x")
        url = f"rediss://127.0.0.1:{server.port}/0"
        assert read(at(url, ca_file=certificates / "ca.crt")).good
        trouble = read(at(url)).trouble
        assert trouble is not None
        assert (trouble.code, trouble.remedy) == ("tls", Remedy.PERSON)
        missing = read(at(url, ca_file=certificates / "none.crt")).trouble
        assert missing is not None
        assert missing.code == "tls_file"


def test_unix_socket_database_number_and_acl_user(redis_server: RedisServer) -> None:
    """All three ways to connect work, and a forbidden key is an error for a person."""
    with redis_server.client(db=3) as client:
        client.set("k", "x")
        client.execute_command("ACL", "SETUSER", "reader", "on", ">reader-pw", "~k", "+@read", "+@connection")
    try:
        assert read(at(f"unix://{redis_server.socket}?db=3")).good
        assert reasons(read(at(redis_server.url))) == [("k", "missing")]
        login = {"username": "reader", "password": Secret(key="p", text="reader-pw")}
        assert read(at(redis_server.url, database=3, **login)).good
        for bad, code in (({"password": Secret(key="p", text="no")}, "WRONGPASS"), ({}, None)):
            trouble = read(at(redis_server.url, database=3, **(login | bad))).trouble
            assert (trouble and trouble.code) == code
        denied = read(at(redis_server.url, database=3, **login), keys=("other",)).trouble
        assert denied is not None
        assert (denied.code, denied.remedy) == ("NOPERM", Remedy.PERSON)
    finally:
        with redis_server.client() as client:
            client.execute_command("ACL", "DELUSER", "reader")


@pytest.mark.server
def test_a_wrong_password_is_tried_once(tmp_path: Path) -> None:
    """Ten hidden tries of the driver would lock an account and fill the server's ACL log."""
    with RedisServer("--requirepass", "right-password") as server:
        server.start()
        for password, code in ((None, "NOAUTH"), ("wrong", "WRONGPASS")):
            secret = Secret(key="p", text=password) if password else None
            trouble = read(at(server.url, password=secret)).trouble
            assert trouble is not None
            assert (trouble.code, trouble.remedy) == (code, Remedy.PERSON)
        with server.client(password="right-password") as client:
            log = client.execute_command("ACL", "LOG")
        assert sum(int(dict(zip(entry[::2], entry[1::2], strict=True))[b"count"]) for entry in log) == 1


def test_a_server_that_is_not_there_or_hangs_is_told(redis_server: RedisServer) -> None:
    """Refused, missing socket, unknown host and timeout have their own codes."""
    trouble = read(at(f"redis://127.0.0.1:{free_port()}/0")).trouble
    assert trouble is not None
    assert (trouble.code, trouble.remedy) == ("refused", Remedy.RETRY)
    assert (read(at("unix:///nowhere/redis.sock")).trouble or trouble).code == "refused"
    assert (read(at("redis://no-such-host.invalid/0")).trouble or trouble).code == "unreachable"
    redis_server.signal(signal.SIGSTOP)
    try:
        hung = read(at(redis_server.url, timeout=Duration(0.2))).trouble
    finally:
        resume(redis_server.process)
    assert hung is not None
    assert (hung.code, hung.remedy) == ("timeout", Remedy.RETRY)


@pytest.mark.server
def test_a_loading_server_is_waited_for(tmp_path: Path) -> None:
    """LOADING is told as such, and the wait ends when the data is there; a restart would only begin it anew."""
    with RedisServer("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024") as server:
        with RedisServer() as source:
            source.start()
            with source.client() as client:
                client.set("k", "x")
                client.mset({f"p{n}": "x" * 100 for n in range(1000)})
                client.save()
            shutil.copy(source.directory / "dump.rdb", server.directory / "dump.rdb")
        server.start()
        trouble = read(at(server.url)).trouble
        assert trouble is not None
        assert (trouble.code, trouble.remedy) == ("LOADING", Remedy.WAIT)
        assert not redis_client.wait_until_ready(at(server.url), 0)
        assert redis_client.wait_until_ready(at(server.url), 30)
        assert read(at(server.url)).good


def test_a_busy_script_is_waited_for(redis_server: RedisServer) -> None:
    """A server that is busy with a script is waited for, not restarted."""
    with redis_server.client() as client:
        client.config_set("busy-reply-threshold", 50)
        connection = client.connection_pool.get_connection()
        connection.send_command("EVAL", "while true do end", "0")
        try:
            wait_until(lambda: read(at(redis_server.url, timeout=Duration(0.5))).trouble, what="BUSY")
            trouble = read(at(redis_server.url)).trouble
            assert trouble is not None
            assert (trouble.code, trouble.remedy) == ("BUSY", Remedy.WAIT)
        finally:
            with redis_server.client() as killer:
                killer.execute_command("SCRIPT", "KILL")
            connection.disconnect()


@pytest.mark.server
def test_a_cluster_is_the_wrong_kind(tmp_path: Path) -> None:
    """MOVED and a cluster that is down are told, not followed."""
    # The bus would be at port + 10000, which a high port does not leave room for.
    with RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        server.start()
        down = read(at(server.url)).trouble
        assert down is not None
        assert (down.code, down.remedy) == ("CLUSTERDOWN", Remedy.WAIT)


@pytest.fixture(scope="module")
def replicated() -> Iterator[tuple[RedisServer, RedisServer, Sentinels]]:
    with RedisServer() as master, RedisServer() as replica:
        master.start()
        replica.options = ("--replicaof", "127.0.0.1", str(master.port))
        replica.start()
        with Sentinels(master) as sentinels:
            sentinels.wait_for_quorum()
            yield master, replica, sentinels


def test_sentinel_names_the_master_and_follows_a_failover(
    replicated: tuple[RedisServer, RedisServer, Sentinels],
) -> None:
    """The next read after a failover asks again; until then a missing master is waited for."""
    master, replica, sentinels = replicated
    where = Redis(sentinels=("127.0.0.1:1", *sentinels.places), service="mymaster", timeout=Duration(1))
    with master.client() as client:
        client.set("k", "x")
        assert client.wait(1, 5000) == 1
    assert redis_client.name(where) == "redis mymaster/0 (Sentinel)"
    assert read(where).good
    danger = persistence.danger(where)
    assert danger == "it is a master without persistence, so its 1 replica would be emptied with it"
    master.kill()
    seen: set[str] = set()

    def good_again() -> bool:
        reading = read(where)
        if reading.trouble:
            seen.add(reading.trouble.code)
            assert reading.trouble.remedy is not Remedy.PERSON
        return reading.good

    wait_until(good_again, timeout=30, what="the replica to be promoted")
    assert seen <= {"refused", "no_master", "closed", "timeout"}
    assert redis_client.server_info(at(replica.url)).role == "master"


def test_sentinels_that_are_down_or_know_no_such_service_are_told(redis_server: RedisServer) -> None:
    """Of all reasons for "no master" only a failover is worth waiting for."""
    where = Redis(sentinels=(f"127.0.0.1:{free_port()}",), service="none", timeout=Duration(0.5))
    down = read(where).trouble
    assert down is not None
    assert (down.code, down.remedy, str(down)) == ("sentinel", Remedy.RETRY, "no Sentinel answers")
    with RedisServer() as master:
        master.start()
        with Sentinels(master) as sentinels:
            wait_until(lambda: _answers(sentinels), what="a Sentinel")
            unknown = read(Redis(sentinels=tuple(sentinels.places[:1]), service="none")).trouble
    assert unknown is not None
    assert (unknown.code, unknown.remedy) == ("sentinel", Remedy.PERSON)
    assert "know no service none" in str(unknown)


def _answers(sentinels: Sentinels) -> bool:
    try:
        return bool(sentinels.ask("PING"))
    except redis.RedisError:
        return False


@pytest.mark.server
def test_a_failed_save_makes_a_restart_dangerous(tmp_path: Path) -> None:
    """MISCONF: what is not on disk would be lost."""
    with RedisServer() as server:
        server.start()
        where = at(server.url)
        assert persistence.danger(where) is None
        with server.client() as client:
            client.set("k", "x")
            (server.directory / "dump.rdb").mkdir()
            client.bgsave()
            wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", what="the save to fail")
        assert "its last save to disk failed (rdb_last_bgsave_status), so 1 changes" in str(persistence.danger(where))


def test_a_read_that_takes_too_long_is_given_up(redis_server: RedisServer) -> None:
    """After the check's timeout the read ends with the code "slow"."""
    with redis_server.client() as client:
        client.mset({f"irm:{n}": "x" for n in range(5000)})
    trouble = read(at(redis_server.url), patterns=("irm:*",), timeout=Duration(0)).trouble
    assert trouble is not None
    assert (trouble.code, trouble.remedy) == ("slow", Remedy.RETRY)


def test_progress_is_told_after_each_batch(redis_server: RedisServer) -> None:
    """The numbers of keys read so far and in total are reported."""
    told: list[tuple[int, int | None]] = []
    check = Check(keys=tuple(f"k{n}" for n in range(2500)))
    reading.read(at(redis_server.url), check, progress=lambda done, total: told.append((done, total)))
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]


def test_a_secret_that_is_not_there_is_trouble_for_a_person() -> None:
    """The sentence names the option and the missing variable."""
    trouble = read(Redis(password=Secret(key="redis.password", env="RG_NOT_SET"))).trouble
    assert trouble is not None
    assert (trouble.code, trouble.remedy) == ("secret", Remedy.PERSON)
    assert "redis.password: the environment variable RG_NOT_SET is not set" in str(trouble)


@pytest.mark.server
def test_an_answer_of_another_protocol_is_told(tmp_path: Path) -> None:
    """An unknown command is an error for a person, not a reason to restart."""
    with RedisServer() as server:
        server.start()
        with pytest.raises(StoreError) as caught, redis_client.connected(at(server.url)) as client:
            client.execute_command("NO-SUCH-COMMAND")
        assert (caught.value.code, caught.value.remedy) == ("ERR", Remedy.PERSON)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=st.binary(max_size=200) | st.text(max_size=50).map(json.dumps).map(str.encode))
def test_any_value_is_judged_without_a_traceback(redis_server: RedisServer, value: bytes) -> None:
    """Whatever bytes are in Redis, JSON or not: a reading comes back, and it is right about JSON."""
    with redis_server.client() as client:
        client.set("k", value)
    found = read(at(redis_server.url), format="json")
    try:
        json.loads(value)
        is_json = value != b""
    except ValueError:
        is_json = False
    if found.good:
        assert is_json
    else:
        assert found.bad[0].code in ("json", "empty")


sizes = st.none() | st.integers(0, 4)
spans = st.none() | st.sampled_from([0.0, 1.0, 50.0, 100.0, 5000.0]).map(Duration)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["string", "hash", "list", "set", "zset", "stream", "none"]),
            st.integers(0, 3),
            st.sampled_from([None, 60, 90, 4000]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["any", "string", "hash", "stream"]),
    sizes,
    sizes,
    spans,
    spans,
    st.booleans(),
)
def test_the_sieve_on_the_server_changes_no_verdict(
    redis_server: RedisServer,
    data: list[tuple[str, int, int | None]],
    kind: str,
    least: int | None,
    most: int | None,
    min_ttl: Duration | None,
    max_ttl: Duration | None,
    by_pattern: bool,
) -> None:
    """Whatever the keys and whatever is asked: a server that refuses scripts gives the same reading."""
    with redis_server.client() as client:
        client.flushall()
        client.acl_setuser("plain", enabled=True, nopass=True, keys="*", commands=["+@all", "-@scripting"])
        for number, (one, size, ttl) in enumerate(data):
            fill(client, f"k:{number}", one, size)
            if ttl is not None:
                client.pexpire(f"k:{number}", ttl * 1000 - 500)
    which = {"patterns": ("k:*",)} if by_pattern else {"keys": tuple(f"k:{number}" for number in range(len(data)))}
    asked: dict[str, Any] = {"type": kind, "min_size": least or 0, "max_size": most, "min_ttl": min_ttl, **which}
    sifted = read(at(redis_server.url), max_ttl=max_ttl, **asked)
    plain = read(at(redis_server.url, username="plain"), max_ttl=max_ttl, **asked)
    assert sorted(reasons(sifted)) == sorted(reasons(plain))
    # Without bounds the sieve asks for no TTL, and without a type for no size.
    apart: dict[str, Any] = {"bad": (), "took_s": 0.0, "least_ttl_s": None, "size": 0}
    assert sifted._replace(**apart) == plain._replace(**apart)


def fill(client: Any, key: str, kind: str, size: int) -> None:
    if kind == "string":
        client.set(key, "x" * size)
    for number in range(size):
        if kind == "hash":
            client.hset(key, str(number), "x")
        elif kind == "list":
            client.rpush(key, "x")
        elif kind == "set":
            client.sadd(key, number)
        elif kind == "zset":
            client.zadd(key, {str(number): number})
        elif kind == "stream":
            client.xadd(key, {"a": "b"})


@pytest.mark.parametrize("user", ["default", "plain"])
def test_what_is_left_and_how_much_there_is(redis_server: RedisServer, user: str) -> None:
    """The least TTL and all sizes, by the script and without it; a key that never expires has none."""
    with redis_server.client() as client:
        client.acl_setuser("plain", enabled=True, nopass=True, keys="*", commands=["+@all", "-@scripting"])
        for number in range(3):
            client.set(f"s:{number}", "x" * 10, ex=1000 + number)
        client.set("for ever", "x")
    where = at(redis_server.url, username=user) if user == "plain" else at(redis_server.url)
    found = read(where, patterns=("s:*",), type="string", min_ttl=Duration(60))
    assert found.least_ttl_s is not None
    assert 990 < found.least_ttl_s <= 1000
    assert (found.size, found.keys) == (30, 3)
    assert 0 < found.took_s < 5
    assert read(where, keys=("for ever",), type="string").least_ttl_s is None
    late = read(where, keys=("s:0", "gone"), type="string", min_ttl=Duration(2000))
    assert (late.size, late.least_ttl_s is not None) == (10, True)
