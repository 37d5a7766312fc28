"""check-redis on many keys beside what a user would write instead. By hand: python -m tests.benchmarks.freshness

Every way looks at existence, type, TTL and size of each key of a pattern, as a process of its own on the same server:

- one by one: four commands a key, each waiting for its answer
- pipeline: a hand-written redis-py pipeline of 1000 keys, answers judged (the yardstick, ratio 1)
- bare script: a hand-written Lua script that gives back what is bad of 1000 keys
- check-redis: the command itself, read only
- floor: redis-benchmark -P 1000 with as many commands as check-redis sends, answers thrown away

Prints wall time (median of the rounds) and peak memory of the process, as ratios to the pipeline.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis

from tests.support.servers import RedisServer

ROUNDS = 3
_PIPELINE = """
import sys, redis
client = redis.Redis(unix_socket_path=sys.argv[1], protocol=2)
bad = total = 0
def judge(keys):
    global bad, total
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.exists(key); pipe.type(key); pipe.ttl(key); pipe.strlen(key)
    answers = pipe.execute()
    for there, kind, ttl, size in zip(answers[0::4], answers[1::4], answers[2::4], answers[3::4]):
        bad += not (there and kind == b"string" and ttl > 3600 and size > 0)
    total += len(keys)
page = []
for key in client.scan_iter(match="irm:*", count=1000):
    page.append(key)
    if len(page) == 1000:
        judge(page); page = []
judge(page)
assert bad == 0, bad
print(total)
"""
_SCRIPT = """
import sys, redis
client = redis.Redis(unix_socket_path=sys.argv[1], protocol=2)
judge = client.register_script('''
local bad = {}
for i = 1, #KEYS do
  local kind, ttl, size = redis.call('TYPE', KEYS[i]).ok, redis.call('TTL', KEYS[i]), redis.call('STRLEN', KEYS[i])
  if kind ~= 'string' or ttl < 3600 or size == 0 then bad[#bad + 1] = i end
end
return bad
''')
bad = total = 0
page = []
for key in client.scan_iter(match="irm:*", count=1000):
    page.append(key)
    if len(page) == 1000:
        bad += len(judge(keys=page)); total += len(page); page = []
if page:
    bad += len(judge(keys=page)); total += len(page)
assert bad == 0, bad
print(total)
"""
_ONE_BY_ONE = """
import sys, redis
client = redis.Redis(unix_socket_path=sys.argv[1], protocol=2)
bad = total = 0
for key in client.scan_iter(match="irm:*", count=1000):
    bad += not (client.exists(key) and client.type(key) == b"string" and client.ttl(key) > 3600 and client.strlen(key))
    total += 1
assert bad == 0
print(total)
"""


def measure(command: list[str]) -> tuple[float, float, str]:
    """Wall seconds, peak MiB and the output of a process."""
    begun, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        # Not ru_maxrss: after vfork and exec it still holds the size of this process.
        while process.poll() is None:
            peak = max(peak, high_water_kib(process.pid))
            time.sleep(0.005)
        wall = time.perf_counter() - begun
        assert process.returncode == 0, command
        out.seek(0)
        return wall, peak / 1024, out.read()


def high_water_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def fill(client: redis.Redis, keys: int) -> None:
    client.flushall()
    for start in range(0, keys, 10_000):
        pipe = client.pipeline(transaction=False)
        for number in range(start, min(start + 10_000, keys)):
            pipe.set(f"irm:{number}", f"value {number}", ex=7 * 86400 + 3600)
        pipe.execute()


def compare(server: RedisServer, keys: int, directory: Path, *, slow: bool) -> None:
    with server.client() as client:
        fill(client, keys)
    config = directory / "config.toml"
    config.write_text(
        f'state_dir = "{directory}"\n[redis]\nurl = "unix://{server.socket}"\n[checks.all]\npatterns = ["irm:*"]\n'
        'type = "string"\nmin_ttl = "1h"\n'
    )
    python = sys.executable
    guard = [python, "-m", "restart_guard", "-c", str(config), "check-redis", "--dry-run", "--json"]
    floor = [shutil.which("redis-benchmark") or "redis-benchmark", "-s", str(server.socket)]
    floor += ["-P", "1000", "-c", "1", "-n", str(3 * keys), "-q", "ttl", "irm:1"]
    ways = {
        "pipeline": [python, "-c", _PIPELINE, str(server.socket)],
        "bare script": [python, "-c", _SCRIPT, str(server.socket)],
        "check-redis": guard,
        "floor": floor,
    }
    if slow:
        ways["one by one"] = [python, "-c", _ONE_BY_ONE, str(server.socket)]
    # Interleaved, so that the machine's moods strike all alike.
    runs: dict[str, list[tuple[float, float, str]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, command in ways.items():
            runs[way].append(measure(command))
    assert runs["pipeline"][0][2].strip() == str(keys)
    assert f'"keys": {keys},' in runs["check-redis"][0][2]
    yardstick = statistics.median(wall for wall, _, _ in runs["pipeline"])
    print(f"{keys} keys")
    for way, found in runs.items():
        wall = statistics.median(wall for wall, _, _ in found)
        peak = max(peak for _, peak, _ in found)
        print(f"  {way:<12} {wall:8.2f} s  {wall / yardstick:6.2f} x pipeline  {keys / wall:10,.0f}/s  {peak:6.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--slow", action="store_true", help="also one by one, which takes minutes")
    options = parser.parse_args()
    with RedisServer() as server, tempfile.TemporaryDirectory() as directory:
        server.start()
        for keys in options.keys:
            compare(server, keys, Path(directory), slow=options.slow and keys <= 100_000)


if __name__ == "__main__":
    main()
