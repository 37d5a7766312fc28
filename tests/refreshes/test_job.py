"""refresh: Redis rebuilt from MySQL on real servers; what is refused, what a reader sees, what a kill leaves behind."""

import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from restart_guard.config import load as config_file
from restart_guard.errors import RefreshError
from restart_guard.refreshes.keys import KeyedRefresh, scratch_of
from restart_guard.refreshes.mapping import may_meet
from restart_guard.refreshes.scratch import owned
from tests.conftest import Database, Guard, job
from tests.journal.test_kills import PROGRAMS
from tests.support.fake_wecom import FakeWeCom
from tests.support.proxy import Proxy
from tests.support.servers import MariaDb, MySql, RedisServer, wait_until

WEEK_MS = (7 * 86400 + 3600) * 1000


class Copy:
    """A table of articles, and a Redis that shall hold copies of it."""

    def __init__(self, guard: Guard, redis_server: RedisServer, database: Database) -> None:
        self.guard = guard
        self.server = redis_server
        self.database = database.make_six_columns()
        self.client = redis_server.client()
        self.sections = job(redis_server, database, None)
        database.make_numbers(300)
        database.run(
            "CREATE TABLE article (id INT PRIMARY KEY, author INT, views INT, title VARCHAR(60)) CHARSET utf8mb4",
            "INSERT INTO article SELECT seq, seq % 7, seq * 3, CONCAT('名', seq) FROM numbers",
        )

    def configure(self, name: str, query: str, key: str, kind: str, more: str = "") -> None:
        text = f"[refreshes.'{name}']\nquery = '''{query}'''\nkey = \"{key}\"\ntype = \"{kind}\"\nbatch = 50\n{more}\n"
        self.sections += text
        self.guard.configure(self.sections)

    def run(self, *statements: str) -> None:
        self.database.run(*statements)

    def refresh(self, *arguments: str, code: int = 0) -> Any:
        done = self.guard("refresh", "--json", *arguments)
        assert done.code == code, done
        return done.json[0]

    def litter(self) -> list[bytes]:
        """What a refresh must not leave behind."""
        return [key for key in self.client.keys("*") if isinstance(key, bytes) and b"restart-guard:" in key]


@pytest.fixture
def copy(guard: Guard, redis_server: RedisServer, database: Database) -> Iterator[Copy]:
    one = Copy(guard, redis_server, database)
    yield one
    one.client.close()


def counts(found: Any) -> tuple[int, ...]:
    return tuple(found[name] for name in ("added", "changed", "removed", "unchanged"))


KINDS: dict[str, tuple[str, Any, Any]] = {
    "hash": ("SELECT id, views FROM article", (b"3", b"9"), (b"3", b"10")),
    "zset": ("SELECT id, views FROM article", (b"3", 9.0), (b"3", 10.0)),
    "set": ("SELECT CONCAT(id, ':', views) FROM article", (b"3:9", None), (b"3:10", None)),
    "list": ("SELECT views FROM article ORDER BY id", (2, b"9"), (2, b"10")),
}


def content(client: Any, kind: str) -> dict[Any, Any]:
    """The key ``copy`` as a dictionary."""
    if kind == "zset":
        return dict(client.zrange("copy", 0, -1, withscores=True))
    if kind == "set":
        return dict.fromkeys(client.smembers("copy"))
    return dict(enumerate(client.lrange("copy", 0, -1))) if kind == "list" else dict(client.hgetall("copy"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_collection_is_rebuilt_and_its_drift_told(copy: Copy, kind: str) -> None:
    """Added, changed, removed and unchanged, with examples; the content is right, and the TTL anew. A set knows no
    change: a member is new or gone."""
    query, before, after = KINDS[kind]
    copy.configure("copy", query, "copy", kind)
    first = copy.refresh()
    assert counts(first) == (300, 0, 0, 0)
    assert first["delivered"] == {"mysql": True}
    assert before in content(copy.client, kind).items()
    copy.client.persist("copy")
    copy.run(
        "UPDATE article SET views = 10 WHERE id = 3",
        "DELETE FROM article WHERE id = 300",
        "INSERT INTO article VALUES (301, 1, 5, 'x'), (302, 1, 5, 'x')",
    )
    dry = copy.refresh("--dry-run")
    assert before in content(copy.client, kind).items()
    assert (copy.client.pttl("copy"), dry["run_id"], len(copy.guard.history())) == (-1, None, 1)
    second = copy.refresh()
    expected = {"set": (3, 0, 2, 298), "list": (1, 2, 0, 298)}.get(kind, (2, 1, 1, 298))
    assert counts(dry) == counts(second) == expected
    assert second["examples"]
    assert after in content(copy.client, kind).items()
    assert len(content(copy.client, kind)) == 301
    assert WEEK_MS - 10_000 < copy.client.pttl("copy") <= WEEK_MS
    assert copy.litter() == []
    assert copy.database.statuses() == ["成功", "成功"]


def test_columns_may_be_named_by_their_roles(copy: Copy) -> None:
    """AS member and AS score count more than the order of columns."""
    copy.configure("copy", "SELECT views AS score, title AS member FROM article", "copy", "zset")
    copy.refresh()
    assert copy.client.zscore("copy", "名3") == 9


NAME = "名3".encode()
PER_KEY: dict[str, tuple[str, Callable[[Any], Any], Any]] = {
    "string": ("id, title FROM article", lambda c: c.get("a:3"), NAME),
    "hash": ("id, title, views FROM article", lambda c: c.hgetall("a:3"), {b"title": NAME, b"views": b"9"}),
    "json": (
        "id, title, views, NULL AS n FROM article",
        lambda c: json.loads(c.get("a:3")),
        {"title": "名3", "views": 9, "n": None},
    ),
    "set": ("author AS id, title FROM article ORDER BY author", lambda c: c.sismember("a:3", NAME), 1),
    "zset": ("author AS id, title, views FROM article ORDER BY 1", lambda c: c.zscore("a:3", "名10"), 30.0),
    "list": ("author AS id, id AS i FROM article ORDER BY author, i", lambda c: c.lrange("a:3", 0, 1), [b"3", b"10"]),
}


@pytest.mark.parametrize("kind", PER_KEY)
def test_a_key_for_each_row_or_each_group_of_rows(copy: Copy, kind: str) -> None:
    """The key's column is not in the value; each has its TTL; the second time nothing differs."""
    query, value, expected = PER_KEY[kind]
    copy.configure("copy", f"SELECT {query}", "a:{id}", kind)
    found = copy.refresh()
    assert counts(found) == (found["added"], 0, 0, 0)
    assert found["added"] == (7 if "author" in query else 300)
    assert value(copy.client) == expected
    assert all(WEEK_MS - 20_000 < copy.client.pttl(key) <= WEEK_MS for key in copy.client.keys("a:*"))
    assert counts(copy.refresh()) == (0, 0, 0, found["added"])
    copy.client.delete("a:3", "a:2")
    _ = copy.client.lpush("a:2", "x") if kind != "list" else copy.client.set("a:2", "of another type")
    dry = copy.refresh("--dry-run")
    assert (counts(dry)[3], "is a " in dry["refused"]) == (found["added"] - 2, True)
    assert copy.refresh(code=1)["error"] == "other_type"
    assert copy.client.exists("a:2", "a:3") == 1
    copy.refresh("--force")
    assert value(copy.client) == expected
    assert copy.litter() == []


def test_a_fixed_string_and_a_list_of_objects(copy: Copy) -> None:
    """A key of type string takes one value, one of type json a list of all rows."""
    copy.configure("total", "SELECT SUM(views) FROM article", "total", "string")
    copy.configure("top", "SELECT id, title FROM article ORDER BY id LIMIT 2", "top", "json")
    assert copy.guard("refresh").code == 0
    assert copy.client.get("total") == b"135450"
    assert json.loads(copy.client.get("top") or "") == [{"id": 1, "title": "名1"}, {"id": 2, "title": "名2"}]


def test_bytes_come_through_as_they_are(copy: Copy) -> None:
    """Binary columns, columns in Latin-1, dates, decimals, values with CR LF and NUL, and one of 17 MB."""
    copy.run(
        "CREATE TABLE odd (k VARBINARY(20), v LONGBLOB, l VARCHAR(9) CHARSET latin1, d DECIMAL(6,2), t DATETIME)",
        "INSERT INTO odd VALUES (0xff00, CONCAT('a', 0x0d0a00), 'é', 1.5, '2026-11-23 02:00:00')",
        "SET GLOBAL max_allowed_packet = 67108864",
    )
    copy.run("INSERT INTO odd (k, v) VALUES ('big', REPEAT('x', 17000000))")
    copy.configure("copy", "SELECT k, v FROM odd", "copy", "hash")
    copy.configure("more", "SELECT l, d, t FROM odd WHERE l IS NOT NULL", "more:{l}", "hash")
    assert copy.guard("refresh").code == 0
    assert copy.client.hget("copy", b"\xff\0") == b"a\r\n\0"
    assert copy.client.hstrlen("copy", "big") == 17_000_000
    assert copy.client.hgetall("more:é") == {b"d": b"1.50", b"t": b"2026-11-23 02:00:00"}


LONG_QUERY = "SELECT a.id, COUNT(*) FROM article a, article b, article c, article d GROUP BY a.id"


def test_bits_are_numbers_and_json_stays_json(copy: Copy) -> None:
    """BIT comes as bytes from the server; a JSON column is no text inside JSON. (MariaDB's JSON is a text column.)"""
    copy.run("CREATE TABLE odd (id INT, flags BIT(20), on_ BIT(1), j JSON)")
    copy.run("INSERT INTO odd VALUES (1, 66051, b'1', '{\"a\": [1, null]}')")
    copy.configure("hash", "SELECT id, flags FROM odd", "bits", "hash")
    copy.configure("json", "SELECT id, flags, on_, j FROM odd", "odd:{id}", "json")
    assert copy.guard("refresh").code == 0
    assert copy.client.hgetall("bits") == {b"1": b"66051"}
    inner = {"a": [1, None]}
    assert json.loads(copy.client.get("odd:1") or b"") == {
        "flags": 66051, "on_": 1, "j": inner if copy.database.is_mysql else json.dumps(inner),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["hash", "zset", "string"])
def test_an_evicting_server_loses_nothing_of_others(copy: Copy, kind: str) -> None:
    """The copy is new, so its size is not known before: it is looked at while it grows, and given up in time."""
    copy.run("DROP TABLE numbers")
    copy.database.make_numbers(60_000)
    pipeline = copy.client.pipeline()
    for number in range(8000):
        pipeline.set(f"foreign:{number}", "x" * 500)
    pipeline.execute()
    key = "copy:{seq}" if kind == "string" else "copy"
    columns = (
        "seq, CONCAT('a text of some length ', seq)" if kind != "zset" else "CONCAT('a text of some length ', seq), seq"
    )
    copy.configure("copy", f"SELECT {columns} FROM numbers", key, kind)
    used = copy.client.info("memory")["used_memory"]
    evicted = copy.client.info("stats")["evicted_keys"]
    copy.client.config_set("maxmemory", int(used * 1.3))
    copy.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert copy.refresh(code=1)["error"] == "memory"
        assert copy.client.info("stats")["evicted_keys"] == evicted
    finally:
        copy.client.config_set("maxmemory", 0)
        copy.client.config_set("maxmemory-policy", "noeviction")
    assert len(copy.client.keys("foreign:*")) == 8000
    assert copy.litter() == []


@pytest.mark.parametrize("kind", ["hash", "zset", "set", "string"])
def test_a_server_without_info_and_without_the_commands_of_6_2(guard: Guard, database: Database, kind: str) -> None:
    """An ACL without @dangerous, and a Redis 5 or 6.0: the same result; that nobody knows the room is told with -v."""
    renamed = ("--rename-command", "SMISMEMBER", "", "--rename-command", "ZMSCORE", "")
    with RedisServer(*renamed) as server:
        server.start()
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "-@dangerous")
        copy = Copy(guard, server, database)
        columns = {"set": "id", "zset": "id, views"}.get(kind, "id, title")
        key = "k:{id}" if kind == "string" else "k"
        copy.configure("copy", f"SELECT {columns} FROM article", key, kind, 'index = "i"' if kind == "string" else "")
        assert counts(copy.refresh()) == (300, 0, 0, 0)
        copy.run("DELETE FROM article WHERE id = 300")
        assert "nobody knows whether it had room" in guard("-v", "refresh").err
        assert counts(copy.refresh("--dry-run")) == (0, 0, 0, 299)


def commands(paragraph: str, start: str, end: str) -> list[str]:
    """The rules of an ACL that the README names in a paragraph that begins so, between two texts."""
    text = (Path(__file__).parents[2] / "README.md").read_text().partition(paragraph)[2].partition("\n\n")[0]
    text = " ".join(text.split())
    rules = re.findall(r"\+[a-z|]+", text[text.index(start) + len(start) :].partition(end)[0])
    assert rules
    return rules


@pytest.mark.parametrize("kind", ["hash", "zset", "set", "list", "string", "json"])
def test_the_readme_names_the_commands_that_a_user_needs(copy: Copy, kind: str) -> None:
    """With these alone a refresh is right twice, and a check reads its data."""
    index = ("string", "json")
    columns = {"set": "id", "list": "id", "zset": "id, views"}.get(kind, "id, title")
    needed = commands("A refresh needs", "", "and for its type")
    name, end = ("string and json", ";") if kind in index else (kind, ",")
    needed += commands("A refresh needs", f" {name} `", end)
    needed += commands("A refresh needs", "with an index", "Redis before") if kind in index else []
    copy.client.execute_command("ACL", "SETUSER", "refresher", "reset", "on", "nopass", "~*", "&*", *needed)
    checker = commands("A check needs", "", "for patterns")
    copy.client.execute_command("ACL", "SETUSER", "checker", "reset", "on", "nopass", "~*", *checker)
    copy.sections = copy.sections.replace("[redis]\n", '[redis]\nusername = "refresher"\npassword = "not-secret-00"\n')
    key = "k:{id}" if kind in index else "k"
    copy.configure("copy", f"SELECT {columns} FROM article", key, kind, 'index = "i"' if kind in index else "")
    assert counts(copy.refresh())[0] == 300
    copy.run("DELETE FROM article WHERE id > 290")
    assert counts(copy.refresh())[2] == 10
    copy.guard.configure(
        copy.sections.replace("refresher", "checker")
        + f'[checks.a]\nkeys = ["{key.format(id=1)}"]\nformat = "{"json" if kind == "json" else "any"}"\n'
    )
    assert copy.guard("check-redis", "a").code == 0


REFUSED = [
    ("hash", "SELECT id, views FROM article WHERE id < 0", "copy", "empty", "the query returned no row"),
    ("hash", "SELECT id, views FROM article WHERE id < 100", "copy", "drift", "67% differs, max_change is 50%"),
    ("hash", "SELECT id, views + 1 FROM article", "copy", "drift", "300 changed"),
    ("hash", "SELECT author, views FROM article", "copy", "duplicate", "more than once"),
    ("zset", "SELECT author, views FROM article", "copy", "duplicate", "more than once"),
    ("set", "SELECT author FROM article", "copy", "duplicate", "more than once"),
    ("hash", "SELECT id, IF(id = 200, NULL, views) AS v FROM article", "copy", "null", "the column v contains NULL"),
    ("hash", "SELECT id, views, title FROM article", "copy", "columns", "the columns id, views, title, expected"),
    ("zset", "SELECT id, title FROM article", "copy", "number", "a score is not a number (1-50)"),
    ("string", "SELECT id FROM article", "copy", "many_rows", "the key copy has more than one row"),
    ("string", "SELECT id, title FROM article", "a:{ids}", "field", "no column ids for the key, only id, title"),
    ("string", "SELECT author, title FROM article", "a:{author}", "duplicate", "more than once"),
    ("string", "SELECT id, title, views FROM article", "a:{id}", "columns", "expected value"),
    ("hash", "SELECT id, nothing FROM article", "copy", "1054", "Unknown column 'nothing'"),
    ("hash", LONG_QUERY, "copy", "1969", "the query took longer than the refresh's timeout"),
]


@pytest.mark.parametrize(("kind", "query", "key", "code", "told"), REFUSED)
def test_what_is_refused_leaves_the_old_data_whole(
    copy: Copy, wecom: FakeWeCom, kind: str, query: str, key: str, code: str, told: str
) -> None:
    """A sentence, exit code 1, a row, an alert; no temporary key; the data and its TTL as they were."""
    fill = {"zset": "SELECT id, views FROM article", "set": "SELECT id FROM article"}
    copy.sections += f'[wecom]\nwebhook = "{wecom.webhook}"\nlanguage = "en"\n'
    copy.configure(
        "good", fill.get(kind, "SELECT id, views FROM article"), "copy", kind if kind != "string" else "hash"
    )
    copy.configure("bad", query, key, kind, 'timeout = "1s"' if query == LONG_QUERY else "")
    copy.refresh("good")
    before = copy.client.dump("copy")
    found = copy.refresh("bad", code=1)
    code = {"1969": "3024"}.get(code, code) if copy.database.is_mysql else code
    assert (found["error"], found["status"]) == (code, "failure")
    assert told in found["detail"]
    assert copy.client.dump("copy") == before
    assert copy.client.dbsize() == 1
    assert copy.database.statuses() == ["成功", "失败"]
    assert told.partition(",")[0] in wecom.texts[0]
    assert wecom.texts[0].startswith("[DOWN] Redis refresh bad: ")


def test_force_and_clear(copy: Copy) -> None:
    """What differs too much is replaced when asked for, what is empty only when the config says so."""
    copy.configure("copy", "SELECT id, views FROM article", "copy", "hash")
    copy.configure("may", "SELECT id, views FROM article", "may", "hash", 'on_empty = "clear"')
    copy.configure("keys", "SELECT id, views FROM article", "k:{id}", "string", 'on_empty = "clear"\nindex = "k:index"')
    assert copy.guard("refresh").code == 0
    copy.run("DELETE FROM article WHERE id > 10")
    copy.refresh("copy", code=1)
    assert counts(copy.refresh("copy", "--force")) == (0, 0, 290, 10)
    copy.run("DELETE FROM article")
    copy.refresh("copy", "--force", code=1)
    copy.refresh("may")
    copy.refresh("keys")
    assert copy.client.keys("*") in ([b"copy", b"k:index"], [b"k:index", b"copy"])


def test_a_key_of_another_type_is_replaced_only_by_force(copy: Copy) -> None:
    """Without --force the foreign key stays."""
    copy.configure("copy", "SELECT id, views FROM article", "copy", "hash")
    copy.client.set("copy", "somebody's")
    assert "is a string, not a hash" in copy.refresh(code=1)["detail"]
    assert copy.client.get("copy") == b"somebody's"
    copy.refresh("--force")
    assert copy.client.hlen("copy") == 300


def test_keys_whose_rows_are_gone(copy: Copy) -> None:
    """Removed with an index of our own, left alone without one; a set of somebody else's is no index."""
    copy.configure("own", "SELECT id, title FROM article", "own:{id}", "string", 'index = "own:index"')
    copy.configure("not", "SELECT id, title FROM article", "not:{id}", "string")
    copy.configure("other", "SELECT id, title FROM article", "x:{id}", "string", 'index = "theirs"')
    copy.client.sadd("theirs", "own:1", "precious")
    copy.client.set("precious", "x")
    assert copy.guard("refresh").code == 1
    assert "the index theirs was not created by this refresh" in copy.guard("history", "-n", "1").out
    copy.run("DELETE FROM article WHERE id <= 20")
    assert counts(copy.refresh("own", "--dry-run")) == (0, 0, 20, 280)
    assert counts(copy.refresh("own")) == (0, 0, 20, 280)
    assert counts(copy.refresh("not")) == (0, 0, 0, 280)
    assert (copy.client.exists("own:1", "own:20"), copy.client.exists("not:1", "not:20", "precious")) == (0, 3)
    assert copy.client.scard("own:index") == 281


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM article",
        "SELECT 1; DELETE FROM article",
        " ",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "UPDATE t SET id = 1",
    ],
)
def test_what_is_no_select_is_a_config_error(copy: Copy, query: str) -> None:
    """Statements that change data, several statements and INTO OUTFILE are refused when the config is read."""
    copy.configure("copy", query, "copy", "hash")
    done = copy.guard("refresh")
    assert done.code == 2
    assert "refreshes.copy.query: expected " in done.err


def test_selects_in_all_their_forms(copy: Copy) -> None:
    """Comments, parentheses, WITH, a semicolon at the end, words in strings that look like others."""
    copy.configure("a", "-- all\n/* of */ (SELECT id, views FROM article);", "a", "hash")
    copy.configure("b", "WITH x AS (SELECT 1 AS i) SELECT i, '; into outfile' FROM x", "b", "hash")
    assert copy.guard("refresh").code == 0
    assert copy.client.hgetall("b") == {b"1": b"; into outfile"}


def test_the_session_can_only_read(copy: Copy) -> None:
    """Whatever a SELECT calls. (MariaDB has sequences; MySQL does not.)"""
    if copy.database.is_mysql:
        body = "BEGIN INSERT INTO article (id) VALUES (1000); RETURN 1; END"
        copy.run(f"CREATE FUNCTION f() RETURNS INT DETERMINISTIC {body}")
    else:
        copy.run("CREATE SEQUENCE s")
    copy.configure("copy", f"SELECT 1, {'f()' if copy.database.is_mysql else 'NEXTVAL(s)'}", "copy", "hash")
    assert copy.refresh(code=1)["error"] == "1792"
    left = "SELECT COUNT(*) - 299 FROM article" if copy.database.is_mysql else "SELECT NEXTVAL(s)"
    assert copy.database.run(left) == [(1,)]


def test_servers_that_are_away_or_refuse(copy: Copy) -> None:
    """A replica, a full memory, a query that is killed: a sentence each, and no temporary key."""
    copy.configure("copy", "SELECT id, REPEAT(title, 200) FROM article", "copy", "hash")
    copy.refresh()
    before = copy.client.hgetall("copy")
    copy.client.config_set("maxmemory", copy.client.info("memory")["used_memory"] + 100_000)
    try:
        assert copy.refresh(code=1)["error"] == "OOM"
        copy.client.config_set("maxmemory-policy", "allkeys-lru")
        assert copy.refresh(code=1)["error"] == "memory"
    finally:
        copy.client.config_set("maxmemory", 0)
        copy.client.config_set("maxmemory-policy", "noeviction")
    copy.client.config_set("proto-max-bulk-len", "1mb")
    copy.configure("big", "SELECT 1, REPEAT('x', 2000000)", "big", "hash")
    assert copy.refresh("big", code=1)["detail"] == "a value has 2000000 bytes; Redis accepts at most 1048576"
    copy.client.config_set("proto-max-bulk-len", "512mb")
    copy.client.replicaof("127.0.0.1", 1)
    try:
        assert copy.refresh("copy", code=1)["error"] == "READONLY"
    finally:
        copy.client.replicaof("NO", "ONE")
    assert copy.client.hgetall("copy") == before
    assert copy.litter() == []


@contextmanager
def slow_query(copy: Copy) -> Iterator[Any]:
    """A refresh whose query gives a row each few milliseconds, once it is at work."""
    copy.configure("slow", "SELECT id, CONCAT(views + SLEEP(0.02), REPEAT(0, 4000)) FROM article", "copy", "hash", "")
    with copy.guard.popen("refresh", "slow", "--json") as process:
        wait_until(lambda: running(copy), what="the query")
        yield process
        process.kill() if process.poll() is None else None


def running(copy: Copy) -> list[int]:
    rows = copy.database.run("SELECT id FROM information_schema.PROCESSLIST WHERE info LIKE 'SELECT id, CONCAT(views%'")
    return [row[0] for row in rows]


def test_a_query_that_is_killed(copy: Copy) -> None:
    """Both the statement and the whole connection, midway."""
    copy.configure("copy", "SELECT id, views FROM article", "copy", "hash")
    copy.refresh()
    before = copy.client.dump("copy")
    for kill, code in (("KILL QUERY", "1317"), ("KILL", "2013")):
        with slow_query(copy) as process:
            wait_until(copy.litter, what="the temporary key")
            copy.run(f"{kill} {running(copy)[0]}")
            out, _ = process.communicate(timeout=30)
            assert json.loads(out)[0]["error"] == code
            assert process.returncode == 1
        copy.sections = copy.sections.partition("[refreshes.'slow']")[0]
    assert copy.client.dump("copy") == before
    assert copy.litter() == []


def test_a_token_that_is_gone_is_no_other_refresh(copy: Copy) -> None:
    """Redis has evicted or flushed it: nobody else is blamed, and the old data stays."""
    copy.configure("copy", "SELECT id, views FROM article", "copy", "hash")
    copy.refresh()
    before = copy.client.dump("copy")
    with slow_query(copy) as process:
        wait_until(copy.litter, what="the temporary key")
        copy.client.delete("{copy}:restart-guard:run")
        out, _ = process.communicate(timeout=30)
        assert json.loads(out)[0]["error"] == "lost"
    assert copy.client.dump("copy") == before
    assert copy.litter() == []


def test_two_at_once_and_a_check_of_the_same_data(copy: Copy) -> None:
    """75: on this host by a lock; another host's later run goes on, and the earlier one gives up."""
    copy.sections = copy.sections.replace('keys = ["your_data_key"]', 'keys = ["copy"]')
    with slow_query(copy) as process:
        wait_until(copy.litter, what="the temporary key")
        assert copy.guard("refresh").code == 75
        check = copy.guard("check-redis")
        assert (check.code, "nothing was changed" in check.err) == (75, True)
        other = copy.guard("refresh", environ={"XDG_STATE_HOME": str(copy.guard.directory)})
        assert other.code == 75
        copy.client.set("{copy}:restart-guard:run", "another's", px=3_600_000)
        out, _ = process.communicate(timeout=30)
        assert json.loads(out)[0]["error"] == "superseded"
    assert copy.client.get("{copy}:restart-guard:run") == b"another's"


def test_a_check_is_healed_by_a_refresh(copy: Copy) -> None:
    """Both are in the journal and in task_monitor, the attempt says what it did."""
    copy.sections = copy.sections.replace('keys = ["your_data_key"]', 'keys = ["copy"]\nrecover = "refresh:copy"')
    copy.configure("copy", "SELECT id, views FROM article", "copy", "hash")
    done = copy.guard("check-redis", "--json")
    assert (done.code, done.json[0]["attempts"], done.json[0]["keys"]) == (0, 1, 1)
    assert "copy: 300 rows: 300 added" in done.json[0]["recoveries"][0]["detail"]
    assert [(event["kind"], event["status"]) for event in copy.guard.history()] == [
        ("check", "success"),
        ("refresh", "success"),
    ]
    copy.client.delete("copy")
    copy.run("DELETE FROM article")
    done = copy.guard("check-redis")
    assert done.code == 1
    assert "the refresh failed, copy: the query returned no row" in done.err
    assert copy.database.statuses()[:3] == ["成功", "成功", "失败"]


STEPS = "refreshes/job,refreshes/collection,refreshes/keys,mysql/rows,refreshes/mapping"


def kill_sample(copy: Copy, count: int, seen_whole: Callable[[], bool]) -> int:
    """Kill a refresh at a sample of all its lines; afterwards each time the data is whole."""
    counted = copy.guard.directory / "count"
    environ = {"PYTHONPATH": PROGRAMS, "RG_KILL_IN": STEPS}
    assert copy.guard("refresh", environ=environ | {"RG_COUNT_TO": str(counted)}).code == 0
    numbers = [int(line) for line in counted.read_text().splitlines()]
    killed = 0
    for step, number in enumerate(numbers[:: max(1, len(numbers) // count)]):
        copy.run(f"UPDATE article SET views = {step + 1000}")
        done = copy.guard("refresh", "--force", environ=environ | {"RG_KILL_AT": str(number)})
        killed += done.code == -signal.SIGKILL
        assert seen_whole(), f"killed at line event {number}"
    return killed


@pytest.mark.parametrize("kind", ["collection", "keys"])
def test_killed_at_every_step(copy: Copy, kind: str) -> None:
    """Old or new whole; the next run leaves no temporary key, and the right TTL."""
    copy.run("DELETE FROM article WHERE id > 120")
    if kind == "collection":
        copy.configure("copy", "SELECT id, views FROM article", "copy", "hash", 'max_change = "100%"')
    else:
        copy.configure(
            "copy", "SELECT id, views FROM article", "a:{id}", "string", 'max_change = "100%"\nindex = "a:index"'
        )

    def seen_whole() -> bool:
        if kind == "collection":
            values = copy.client.hvals("copy")
            return len(values) == 120 and len(set(values)) == 1
        return all(copy.client.exists(f"a:{number}") for number in range(1, 121))

    copy.run("UPDATE article SET views = 1")
    assert kill_sample(copy, 20, seen_whole) >= 15
    if kind == "keys":
        copy.run("DELETE FROM article WHERE id = 7")
    assert copy.guard("refresh", "--force").code == 0
    assert copy.litter() == []
    key = "copy" if kind == "collection" else "a:1"
    assert WEEK_MS - 10_000 < copy.client.pttl(key) <= WEEK_MS
    assert copy.client.exists("a:7") == 0


@pytest.mark.slow
def test_a_reader_never_sees_a_part(copy: Copy) -> None:
    """A reader hammers the key through 50 refreshes: all 300 members, all of one refresh, every time."""
    copy.configure("copy", "SELECT id, views FROM article", "copy", "hash", 'max_change = "100%"')
    copy.run("UPDATE article SET views = 0")
    copy.refresh()
    stop, seen, bad = threading.Event(), set[bytes](), list[Any]()

    def read() -> None:
        with copy.server.client() as client:
            while not stop.is_set():
                values = client.hvals("copy")
                if len(values) != 300 or len(set(values)) != 1:
                    bad.append(values)
                seen.update(values)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(50):
            copy.run(f"UPDATE article SET views = {number}")
            copy.refresh()
    finally:
        stop.set()
        reader.join()
    assert bad == []
    assert len(seen) > 40


def test_a_swap_does_not_hold_up_others(copy: Copy) -> None:
    """The old one is freed by a thread of Redis, not by the rename; the benchmark tells the milliseconds."""
    copy.run("DROP TABLE numbers")
    copy.database.make_numbers(20_000)
    copy.configure("copy", "SELECT seq, seq FROM numbers", "copy", "hash")
    copy.refresh()
    before = copy.client.info("memory")["lazyfreed_objects"]
    copy.refresh()
    wait_until(lambda: copy.client.info("memory")["lazyfreed_objects"] > before, what="the lazy free")


def test_saving_and_persistence(copy: Copy) -> None:
    """--save waits for the end of a BGSAVE; require_persistence fails a check whose server keeps nothing."""
    copy.configure("copy", "SELECT id, views FROM article", "your_data_key", "hash")
    saved = copy.client.info("persistence")["rdb_last_save_time"]
    wait_until(lambda: copy.client.time()[0] > saved, what="another second")
    copy.refresh("--save")
    info = copy.client.info("persistence")
    assert (info["rdb_changes_since_last_save"], info["rdb_last_save_time"] > saved) == (0, True)
    copy.guard.configure(copy.sections.replace("[redis]\n", "[redis]\nrequire_persistence = true\n"))
    copy.client.config_set("save", "")
    done = copy.guard("check-redis")
    assert (done.code, "it keeps neither snapshots nor an append-only file" in done.out) == (1, True)
    assert "restart attempt" not in done.err
    assert "fail  redis" in copy.guard("doctor").out
    copy.client.config_set("appendonly", "yes")
    wait_until(lambda: not copy.client.info("persistence")["aof_rewrite_in_progress"], what="the first AOF")
    try:
        assert copy.guard("check-redis").code == 0
        assert "persistence and replication are healthy" in copy.guard("doctor").out
    finally:
        copy.client.config_set("appendonly", "no")


def test_a_save_that_fails_is_told(copy: Copy) -> None:
    """refresh --save exits with 1 if Redis cannot write its dump."""
    copy.configure("copy", "SELECT id, views FROM article", "copy", "hash")
    settings: Any = copy.client.config_get("*d*")
    dump = Path(settings["dir"]) / settings["dbfilename"]
    dump.unlink(missing_ok=True)
    dump.mkdir()
    try:
        assert "the save to disk failed" in copy.refresh("--save", code=1)["detail"]
        assert copy.client.hlen("copy") == 300
    finally:
        dump.rmdir()
        copy.client.save()


def test_schedules_become_lines(copy: Copy) -> None:
    """install-timer makes a line for each refresh with a schedule, also for Chinese names."""
    copy.configure("count", "SELECT id, views FROM article", "copy", "hash", 'schedule = "30 1 * * 1"')
    copy.configure("文章", "SELECT id, views FROM article", "copy2", "hash", 'schedule = "0 3 * * *"')
    lines = copy.guard("install-timer", "--backend", "print").out.splitlines()
    assert any(line.startswith("30 1 * * 1 ") and " refresh count >> " in line for line in lines)
    assert any(
        (line.startswith("0 3 * * * ") and " refresh '文章' >> " in line) or "refresh 文章" in line for line in lines
    )


def test_without_mysql_nothing_can_be_refreshed(guard: Guard) -> None:
    """A refresh without [mysql], and a config without refreshes, are usage errors."""
    guard.configure('[refreshes.a]\nquery = "SELECT 1, 2"\nkey = "a"\ntype = "hash"\n')
    done = guard("refresh")
    assert (done.code, "expected a section [mysql]" in done.err) == (2, True)
    guard.configure("")
    assert "has no [refreshes.NAME]" in guard("refresh").err


@pytest.mark.server
@pytest.mark.parametrize("kind", [MariaDb, MySql])
def test_a_server_that_dies_midway(guard: Guard, kind: type[MariaDb]) -> None:
    """MySQL killed while it sends, and Redis while it is written to: a sentence; a later run is whole."""
    with kind() as server, RedisServer() as own:
        server.start()
        own.start()
        server.run("CREATE DATABASE d")
        Database(server, "d").make_numbers(400)
        text = f'[redis]\nurl = "{own.url}"\n[mysql]\nsocket = "{server.socket}"\nuser = "root"\ndatabase = "d"\n'
        query = "SELECT seq, CONCAT(SLEEP(0.01), REPEAT(0, 4000)) FROM numbers"
        text += f"[refreshes.a]\nquery = '{query}'\nkey = 'a'\ntype = 'hash'\nbatch = 20\n"
        guard.configure(text)
        for victim in (own, server):
            with guard.popen("refresh", "--json") as process:
                with own.client() as client:
                    wait_until(lambda: client.keys("*restart-guard:new"), what="the temporary key")
                victim.kill()
                out, _ = process.communicate(timeout=60)
                assert process.returncode == 1
                assert json.loads(out)[0]["status"] == "failure"
            victim.start()
        guard.configure(text.replace("SLEEP(0.01)", "seq"))
        assert guard("refresh").code == 0
        with own.client() as client:
            assert client.hlen("a") == 400
            assert [key for key in client.keys("*") if key != b"a"] == []


def test_keys_survive_whatever_happens_to_the_names_beside_them(copy: Copy) -> None:
    """Another host begins, or the names are evicted, when the values are written: nothing is taken for stale."""
    copy.configure("copy", "SELECT id, views FROM article", "a:{id}", "string", 'index = "a:index"')
    copy.refresh()
    settings = config_file.load(copy.guard.config, {})
    name = "{restart-guard:refresh:copy}:restart-guard:"
    for harm in (f"{name}new", f"{name}run"):
        keys = copy.client.keys("a:*")
        with owned(settings.redis, scratch_of("copy", settings.refreshes["copy"]), 30) as (client, token):
            run = KeyedRefresh(client, "copy", settings.refreshes["copy"], token, force=False)
            groups = [(f"a:{number}".encode(), [b"1"]) for number in range(1, 301)]
            run.compare([groups], lambda _rows: None)
            run.write([groups], lambda _rows: None)
            copy.client.delete(harm)
            with pytest.raises(RefreshError):
                run._remove_stale()
        assert sorted(copy.client.keys("a:*")) == sorted(keys)
    assert copy.litter() == []


def test_other_rows_the_second_time(copy: Copy) -> None:
    """What was not compared is not written."""
    copy.configure("copy", "SELECT id, views FROM article WHERE RAND() < 0.5", "a:{id}", "string", 'index = "a:i"')
    found = copy.refresh(code=1)
    assert found["error"] == "moved"


def test_a_score_that_is_none_is_seen_before_anything_is_written(copy: Copy) -> None:
    """A score that is no number refuses the whole refresh, and the old sets stay."""
    copy.configure("copy", "SELECT author, id, views FROM article ORDER BY author", "z:{author}", "zset")
    copy.refresh()
    before = copy.client.zcard("z:3")
    copy.configure(
        "bad", "SELECT author, id, IF(id = 10, 'abc', views) FROM article ORDER BY author", "z:{author}", "zset"
    )
    assert copy.refresh("bad", code=1)["error"] == "number"
    assert copy.client.zcard("z:3") == before


def test_a_single_value_may_change(copy: Copy) -> None:
    """A sum is another each time; of a JSON list only the length is limited."""
    copy.configure("sum", "SELECT SUM(views) FROM article", "sum", "string")
    copy.configure("list", "SELECT id, views FROM article", "list", "json")
    assert copy.guard("refresh").code == 0
    copy.run("UPDATE article SET views = views + 1")
    assert copy.guard("refresh").code == 0
    copy.run("DELETE FROM article WHERE id > 100")
    assert copy.refresh("list", code=1)["error"] == "drift"
    assert copy.refresh("sum")["changed"] == 1


def test_a_dry_run_foresees_a_refusal(copy: Copy) -> None:
    """It says that a real run would be refused, and why."""
    copy.configure("copy", "SELECT id, views FROM article", "copy", "hash")
    copy.refresh()
    copy.run("DELETE FROM article WHERE id > 100")
    dry = copy.refresh("--dry-run")
    assert dry["refused"].startswith("67% differs, max_change is 50%")
    assert "would be refused: 67% differs" in copy.guard("refresh", "--dry-run").out


def test_a_redis_that_drips_is_cut_off(copy: Copy) -> None:
    """A reply of a byte now and then keeps every wait short, and still the whole ends."""
    copy.configure("copy", "SELECT id, REPEAT(title, 500) FROM article", "copy", "hash", 'timeout = "1s"')
    with Proxy(copy.server.socket) as proxy:
        proxy.drip_s = 0.05
        copy.guard.configure(copy.sections.replace(copy.server.url, f"redis://127.0.0.1:{proxy.port}/0"))
        done = copy.guard("refresh")
    assert done.code == 1


@pytest.mark.parametrize(
    ("template", "names", "related"),
    [
        ("h:{id}", ["h:1"], True),
        ("h:{id}", ["h:1*"], True),
        ("h:{id}", ["*"], True),
        ("h:{id}", ["g:*"], False),
        ("{{a}}:b", ["{a}:b"], True),
        ("count", ["counter"], False),
        ("count", ["cou*"], True),
    ],
)
def test_which_checks_and_refreshes_exclude_each_other(template: str, names: list[str], related: bool) -> None:
    """Those whose keys can be the same do, and never too few."""
    assert may_meet(template, names) == related


def test_settings_of_the_server_cut_nothing(copy: Copy) -> None:
    """A small group_concat_max_len and sql_select_limit are those of others; outcomes and rows are whole."""
    query = "SELECT 'all', GROUP_CONCAT(id, ':', REPEAT('x', 20) ORDER BY id) FROM article UNION SELECT 'b', 'c'"
    copy.configure("copy", query, "copy", "hash")
    copy.run("SET GLOBAL group_concat_max_len = 1024", "SET GLOBAL sql_select_limit = 1")
    try:
        done = copy.refresh()
    finally:
        copy.run("SET GLOBAL group_concat_max_len = DEFAULT", "SET GLOBAL sql_select_limit = DEFAULT")
    assert done["status"] == "success"
    assert done["delivered"] == {"mysql": True}
    assert len(str(copy.client.hgetall("copy")[b"all"])) > 6000
    assert copy.client.hget("copy", "b") == b"c"


def test_a_value_that_the_server_cut_is_refused(copy: Copy) -> None:
    """By its packet size, on MySQL by the query's own hint: error 1260 is only a warning there."""
    hint = "/*+ SET_VAR(group_concat_max_len = 1024) */" if copy.database.is_mysql else ""
    copy.configure("copy", f"SELECT {hint} 'all', GROUP_CONCAT(REPEAT('x', 200)) FROM article", "copy", "hash")
    copy.run("SET GLOBAL max_allowed_packet = 16384")
    try:
        (done,) = copy.guard("refresh", "--json").json
    finally:
        copy.run("SET GLOBAL max_allowed_packet = 16777216")
    assert done["status"] == "failure"
    assert "the server cut a value" in done["detail"]
    assert not copy.client.exists("copy")
