"""refresh beside what a user would write instead. By hand: python -m tests.benchmarks.refresh

Rows of a real MariaDB into a hash and a zset of ids and counts, a hash of arbitrary values, and a string for each row:

- naive: fetchall, then one command a row, each waiting for its answer (only with --slow, and at 1e5)
- pipelined: fetchall, then a redis-py pipeline of 1000 rows
- refresh: the command itself over an older copy of which every hundredth row differs: drift report, swap, journal
- floor: mariadb --batch that makes the protocol's bytes, into redis-cli --pipe (ratio 1)

Prints wall time (median of the rounds) as ratios to the floor, rows a second, and peak memory of the process; every
way's content is verified.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.freshness import measure
from tests.support.servers import MariaDb, RedisServer

ROUNDS = 3
_LOOP = """
import sys, pymysql, redis
kind, pipelined, mysql, where, query = sys.argv[1:]
cursor = pymysql.connect(unix_socket=mysql, user="root", database="bench").cursor()
cursor.execute(query)
client = redis.Redis(unix_socket_path=where, protocol=2)
target = client.pipeline(transaction=False) if pipelined == "1" else client
for number, (name, value) in enumerate(cursor.fetchall(), 1):
    if kind == "hash":
        target.hset("copy", name, value)
    elif kind == "zset":
        target.zadd("copy", {name: value})
    else:
        target.set(f"copy:{name}", value, ex=608400)
    if pipelined == "1" and number % 1000 == 0:
        target.execute()
if pipelined == "1":
    target.execute()
"""


class Case(NamedTuple):
    """``floor`` are SQL expressions: the words of the command that the floor sends for a row."""

    name: str
    kind: str
    query: str
    key: str
    floor: tuple[str, ...]

    @property
    def sql(self) -> str:
        """A query whose rows are commands of the protocol; the end of the row is the end of the last line."""
        words = ", '\\r\\n', ".join(f"'$', LENGTH({word}), '\\r\\n', {word}" for word in self.floor)
        return f"SELECT CONCAT('*{len(self.floor)}\\r\\n', {words}, '\\r') FROM t"


CASES = [
    Case("hash of ids and counts", "hash", "SELECT id, n FROM t", "copy", ("'HSET'", "'copy'", "id", "n")),
    Case("zset of ids and counts", "zset", "SELECT id, n FROM t", "copy", ("'ZADD'", "'copy'", "n", "id")),
    Case("hash of arbitrary values", "hash", "SELECT id, v FROM t", "copy", ("'HSET'", "'copy'", "id", "v")),
    Case(
        *("a string for each row", "string", "SELECT id, v FROM t", "copy:{id}"),
        ("'SET'", "CONCAT('copy:', id)", "v", "'EX'", "'608400'"),
    ),
]


def prepare(server: MariaDb, rows: int) -> None:
    """Counts that are not all alike, and values in UTF-8 with line ends and quotes in them."""
    server.run(
        "DROP DATABASE IF EXISTS bench",
        "CREATE DATABASE bench CHARACTER SET utf8mb4",
        "CREATE TABLE bench.t (id INT PRIMARY KEY, n INT, v VARCHAR(60)) ENGINE=InnoDB",
        "INSERT INTO bench.t SELECT seq, seq * 7919 % 1000, CONCAT('值 ', MD5(seq), '\\r\\n\"', seq) "
        f"FROM bench.seq_1_to_{rows}",
    )


def older_copy(client: Any, case: Case, rows: list[tuple[Any, ...]]) -> None:
    """What refresh finds: every hundredth row has another value."""
    client.flushall()
    pipe = client.pipeline(transaction=False)
    for number, (name, value) in enumerate(rows):
        old = 0 if number % 100 == 0 else value
        if case.kind == "string":
            pipe.set(f"copy:{name}", old)
        elif case.kind == "hash":
            pipe.hset("copy", name, old)
        else:
            pipe.zadd("copy", {name: old})
        if number % 10_000 == 0:
            pipe.execute()
    pipe.execute()


def verify(client: Any, case: Case, rows: list[tuple[Any, ...]]) -> None:
    size = {"string": client.dbsize, "hash": lambda: client.hlen("copy"), "zset": lambda: client.zcard("copy")}
    assert size[case.kind]() == len(rows), case.name
    for start in range(0, len(rows), 10_000):
        part = rows[start : start + 10_000]
        names = [str(name) for name, _ in part]
        if case.kind == "string":
            found = client.mget([f"copy:{name}" for name in names])
        else:
            found = client.hmget("copy", names) if case.kind == "hash" else client.zmscore("copy", names)
        wanted = [float(value) if case.kind == "zset" else str(value).encode() for _, value in part]
        assert found == wanted, case.name


def compare(database: MariaDb, server: RedisServer, case: Case, directory: Path, *, slow: bool) -> None:
    rows = database.run(case.query.replace("FROM t", "FROM bench.t"))
    config = directory / "config.toml"
    config.write_text(
        f'state_dir = "{directory}/state"\n[redis]\nurl = "unix://{server.socket}"\n[mysql]\nuser = "root"\n'
        f'socket = "{database.socket}"\ndatabase = "bench"\n[refreshes.copy]\nquery = "{case.query}"\n'
        f'key = "{case.key}"\ntype = "{case.kind}"\n'
    )
    loop = [sys.executable, "-c", _LOOP, case.kind, "1", str(database.socket), str(server.socket), case.query]
    script = directory / "floor.sh"
    (directory / "floor.sql").write_text(case.sql)
    script.write_text(
        f"mariadb --no-defaults -S {database.socket} -uroot --batch --raw --skip-column-names --quick "
        f"--default-character-set=utf8mb4 bench < {directory}/floor.sql | redis-cli -s {server.socket} --pipe\n"
    )
    ways = {
        "floor": ["sh", str(script)],
        "refresh": [sys.executable, "-m", "restart_guard", "-c", str(config), "refresh"],
        "pipelined": loop,
    }
    if slow:
        ways["naive"] = [*loop[:4], "0", *loop[5:]]
    runs: dict[str, list[tuple[float, float, str]]] = {way: [] for way in ways}
    with server.client() as client:
        for _ in range(ROUNDS):
            for way, command in ways.items():
                client.flushall()
                if way == "refresh":
                    older_copy(client, case, rows)
                runs[way].append(measure(command))
                verify(client, case, rows)
        print(f"{case.name}, {len(rows):,} rows")
        yardstick = statistics.median(wall for wall, _, _ in runs["floor"])
        for way, found in runs.items():
            wall = statistics.median(wall for wall, _, _ in found)
            peak = max(peak for _, peak, _ in found)
            speed = f"{wall / yardstick:6.2f} x floor {len(rows) / wall:10,.0f} rows/s"
            print(f"  {way:<10} {wall:7.2f} s {speed} {peak:7.1f} MiB")
        if case.kind != "string":
            print(f"  the swap held up Redis for {swap_ms(client, case, rows, ways['refresh']):.2f} ms")


def swap_ms(client: Any, case: Case, rows: list[tuple[Any, ...]], command: list[str]) -> float:
    """How long the transaction took by Redis's own clock, over a copy of the same size."""
    older_copy(client, case, rows)
    client.config_set("slowlog-max-len", 20)
    client.config_set("slowlog-log-slower-than", 0)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    swap = (b"rename", b"unlink", b"exec", b"pexpire")
    found = [one["duration"] for one in client.slowlog_get(20) if one["command"].split()[0].lower() in swap]
    client.config_set("slowlog-log-slower-than", 10_000)
    assert found
    return float(sum(found)) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--slow", action="store_true", help="also the naive loop, at up to 1e5 rows")
    options = parser.parse_args()
    with MariaDb() as database, RedisServer() as server, tempfile.TemporaryDirectory() as directory:
        database.start()
        server.start()
        with server.client() as client:
            client.config_set("save", "")
        for rows in options.rows:
            prepare(database, rows)
            for case in CASES:
                compare(database, server, case, Path(directory), slow=options.slow and rows <= 100_000)


if __name__ == "__main__":
    main()
