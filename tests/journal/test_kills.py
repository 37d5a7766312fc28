"""kill -9 at every step: each journalled outcome arrives, rows once, alerts at least once, nothing is stuck."""

import os
import random
import signal

import pytest

from tests.conftest import Database, Guard, job
from tests.support import services
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import RedisServer, resume

PROGRAMS = str(services.PROGRAMS)
STEPS = "checks/job,journal/journal,journal/file,journal/delivery,mysql/task_monitor,mysql/table,alerts/wecom,lock"


def kill_at(number: int) -> dict[str, str]:
    return {"PYTHONPATH": PROGRAMS, "RG_KILL_IN": STEPS, "RG_KILL_AT": str(number)}


def steps(guard: Guard, *arguments: str) -> list[int]:
    """The number of the first event of each line that a command runs through."""
    count = guard.directory / "count"
    guard(*arguments, environ={"PYTHONPATH": PROGRAMS, "RG_KILL_IN": STEPS, "RG_COUNT_TO": str(count)})
    return [int(line) for line in count.read_text().splitlines()]


def settle(guard: Guard) -> None:
    """What the next minutes would do: deliver until nothing is left."""
    for _ in range(3):
        if guard("deliver").code == 0:
            return
    raise AssertionError(guard("deliver").err)


def check_promises(guard: Guard, database: Database, wecom: FakeWeCom) -> None:
    """Each outcome in the journal has exactly one row, each incident at least one alert, each end one recovery."""
    events = guard.history()
    rows = database.run("SELECT task_status FROM task_monitor")
    assert len(rows) == len(events)
    assert len(database.run("SELECT run_id FROM restart_guard_applied")) == len(events)
    assert all(all(event["delivered"].values()) for event in events)
    failing = False
    numbers = {text.splitlines()[-1].split("，")[0].split()[1][:8] for text in wecom.texts}
    for event in reversed(events):
        if event["status"] == "failure" and not failing:
            assert event["run_id"][:8] in numbers, "an incident without an alert"
        failing = event["status"] == "failure"


def run_and_kill(guard: Guard, number: int) -> bool:
    """Whether the command was killed before its end."""
    return guard("check-redis", environ=kill_at(number)).code == -signal.SIGKILL


def test_kill_at_every_step_of_a_failing_run(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom
) -> None:
    """A sample of all lines of the journal, the delivery and the drivers' edges; the slow test draws from all."""
    database.make_six_columns()
    guard.configure(job(redis_server, database, wecom, "retries = 0"))
    numbers = steps(guard, "check-redis")
    assert len(numbers) > 200
    killed = sum(run_and_kill(guard, number) for number in numbers[:: len(numbers) // 24])
    assert killed > 15
    assert guard("check-redis").code == 1
    settle(guard)
    check_promises(guard, database, wecom)


FAULTS: list[int | str] = ["502", -1, 45009, "html", "half", "drop", "drop-after"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_random_kills_with_everything_failing_now_and_then(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom
) -> None:
    """Kills at random steps while the data comes and goes, MySQL hangs or is away, and WeCom answers nonsense."""
    seed = int(os.environ.get("RG_SEED", "0")) or random.randrange(10**6)
    print(f"RG_SEED={seed}")
    rng = random.Random(seed)
    database.make_six_columns()
    good = job(redis_server, database, wecom, "retries = 0").replace("[checks", 'repeat_interval = "0s"\n[checks')
    away = good.replace(str(database.server.socket), "/nowhere.sock")
    guard.configure(good.replace("[mysql]", '[mysql]\ntimeout = "300ms"'))
    last = steps(guard, "check-redis")[-1]
    killed = 0
    while killed < 200:
        with redis_server.client() as client:
            client.set("your_data_key", "x") if rng.random() < 0.4 else client.delete("your_data_key")
        guard.configure((away if rng.random() < 0.2 else good).replace("[mysql]", '[mysql]\ntimeout = "300ms"'))
        if rng.random() < 0.4:
            wecom.script.append(rng.choice(FAULTS))
        hang = rng.random() < 0.05
        if hang:
            database.server.signal(signal.SIGSTOP)
        try:
            killed += run_and_kill(guard, rng.randrange(1, last))
        finally:
            if hang:
                resume(database.server.process)
    wecom.script.clear()
    guard.configure(good)
    guard("check-redis")
    settle(guard)
    check_promises(guard, database, wecom)


POISON = """CREATE TRIGGER t BEFORE INSERT ON task_monitor FOR EACH ROW
IF NEW.task_description LIKE '%poison%' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_random_kills_with_a_row_that_mysql_refuses(
    guard: Guard, redis_server: RedisServer, database: Database
) -> None:
    """Each good row arrives once, whatever lies before it; the refused ones wait, and doctor says why."""
    seed = int(os.environ.get("RG_SEED", "0")) or random.randrange(10**6)
    print(f"RG_SEED={seed}")
    rng = random.Random(seed)
    database.make_six_columns().run(POISON)
    text = job(redis_server, database, None, "retries = 0") + '[checks.poison]\nkeys = ["k"]\nretries = 0\n'
    guard.configure(text)
    last = steps(guard, "check-redis")[-1]
    killed = 0
    while killed < 200:
        killed += run_and_kill(guard, rng.randrange(1, last))
    guard("check-redis")
    guard("deliver", "--all")
    events = guard.history()
    good = [event for event in events if event["check"] == "metadata"]
    rows = database.run("SELECT COUNT(*), COUNT(DISTINCT task_id) FROM task_monitor")
    assert rows == [(len(good), len(good))]
    assert len(database.run("SELECT run_id FROM restart_guard_applied")) == len(good)
    assert all(event["delivered"] == {"mysql": True} for event in good)
    bad = [event for event in events if event["check"] == "poison"]
    assert bad
    assert all(event["deliveries"][0]["state"] == "blocked" for event in bad)
    assert f"{len(bad)} deliver{'y' if len(bad) == 1 else 'ies'} to mysql blocked: " in guard("doctor").out
    assert "not this one" in guard("doctor").out


def test_a_kill_between_commit_and_mark_is_harmless(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom
) -> None:
    """The message has arrived and the process dies before it can note that: the next run sends it again."""
    database.make_six_columns()
    guard.configure(job(redis_server, database, wecom, "retries = 0"))
    with guard.popen("check-redis") as process:
        wecom.on_delivered = process.kill
        process.communicate()
    wecom.on_delivered = lambda: None
    assert process.returncode == -signal.SIGKILL
    settle(guard)
    assert database.statuses() == ["失败"]
    assert len(wecom.messages) == 2
    assert len(set(wecom.texts)) == 1


def test_an_interrupted_run_leaves_no_lock(guard: Guard, redis_server: RedisServer) -> None:
    """After kill -9 in the middle of a recovery the next run can start at once."""
    guard.configure(job(redis_server, None, None, 'retries = 1\nrecover = "command:sleep 30"'))
    with guard.popen("check-redis") as process:
        while not (guard.state / "locks").exists():
            pass
        process.kill()
    guard.configure(job(redis_server, None, None, "retries = 0"))
    assert guard("check-redis").code == 1
