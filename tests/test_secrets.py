"""No secret in stdout, stderr, journal, logs, process list or alert: every command is run, failures included."""

import sqlite3
import subprocess
from pathlib import Path

import pytest

from restart_guard import cli
from tests.conftest import Database, Guard
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import RedisServer, wait_until

SECRETS = {
    "redis": "redis-s3cret!/pw",
    "mysql": "mysql-s3cret'pw",
    "key": "robot-s3cret-key",
    "corp": "corp-s3cret-text",
    "sentinel": "sentinel-s3cret",
    "ping": "ping-s3cret-key-0001",
}


def config(redis_server: RedisServer, database: Database, wecom: FakeWeCom, *, in_url: bool = False) -> str:
    """Every secret there is, all wrong; the recovery command prints them."""
    url = f"redis://:redis-s3cret%21%2Fpw@127.0.0.1:{redis_server.port}/0" if in_url else redis_server.url
    password = "" if in_url else f'password = "{SECRETS["redis"]}"'
    return f"""
        [redis]
        url = "{url}"
        {password}
        [mysql]
        socket = "{database.server.socket}"
        user = "root"
        password = "{SECRETS["mysql"]}"
        database = "{database.name}"
        [wecom]
        webhook = "{wecom.base}/cgi-bin/webhook/send?key={SECRETS["key"]}"
        corp_id = "corp-1"
        corp_secret = "{SECRETS["corp"]}"
        agent_id = 1
        to_users = ["zhangsan"]
        api_base = "{wecom.base}"
        [ping]
        url = "{wecom.base}/{SECRETS["ping"]}/{{job}}"
        [checks.a]
        keys = ["k"]
        retries = 1
        retry_delay = "0s"
        recover = "command:sh -c 'grep -h s3cret config.toml; exit 3'"
    """


def leaks(text: str) -> list[str]:
    return [name for name, secret in SECRETS.items() if secret in text or secret.replace("'", "\\'") in text]


COMMANDS = [
    ["check-redis"], ["check-redis", "--json"], ["-v", "check-redis"], ["check-redis", "--dry-run"], ["deliver"],
    ["deliver", "--all"], ["history"], ["history", "--json"], ["doctor"], ["doctor", "--json"],
    ["doctor", "--send-test-alert"], ["init-db"], ["start"], ["status"], ["restart"],
    ["watch", "--for", "1s"], ["standby", "--for", "1s"], ["kill"], ["stop"],
    ["ack", "a"], ["mute", "a", "--for", "1s"], ["unmute", "--all"],
    ["history", "--uptime"], ["page"], ["metrics"], ["logs", "--job", "check-redis"],
    ["init"], ["refresh"], ["refresh", "--dry-run"],
    ["install-timer", "--backend", "print"], ["uninstall-timer", "--dry-run"],
]  # fmt: skip


@pytest.mark.parametrize("in_url", [False, True])
@pytest.mark.parametrize("server", ["refuses", "accepts"])
def test_no_secret_gets_out(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom, server: str, in_url: bool
) -> None:
    """All commands, with Redis refusing the password and with the data missing, with WeCom refusing and accepting."""
    assert {arguments[-1 if arguments[0] == "-v" else 0] for arguments in COMMANDS} == set(cli.COMMANDS) - {"demo"}
    if server == "accepts":
        wecom.keys.add(SECRETS["key"])
        wecom.corp = ("corp-1", SECRETS["corp"], 1)
        database.make_six_columns()
        with redis_server.client() as client:
            client.config_set("requirepass", SECRETS["redis"])
    try:
        guard.configure(config(redis_server, database, wecom, in_url=in_url))
        for arguments in [*COMMANDS, [], ["--json"]]:
            done = guard(*arguments)
            assert leaks(done.out + done.err) == [], arguments
            assert "Traceback" not in done.err
    finally:
        with redis_server.client(password=SECRETS["redis"] if server == "accepts" else None) as client:
            client.config_set("requirepass", "")
    if server == "accepts":
        assert wecom.messages
        assert "***" in wecom.texts[0]
    assert leaks("".join(wecom.texts)) == []
    for path in guard.state.rglob("*"):
        if path.is_file():
            assert leaks(path.read_text(errors="replace")) == [], path
    connection = sqlite3.connect(guard.state / "journal.db")
    dump = "\n".join(connection.iterdump())
    connection.close()
    assert "failure" in dump
    assert leaks(dump) == []


def test_no_secret_in_the_process_list(
    guard: Guard, redis_server: RedisServer, database: Database, wecom: FakeWeCom
) -> None:
    """No argument and no environment of a started process holds one."""
    guard.configure(config(redis_server, database, wecom).replace("grep -h s3cret config.toml", "touch in; sleep 5"))
    with guard.popen("check-redis") as process:
        wait_until(lambda: (guard.directory / "in").exists() or process.poll() is not None, what="the recovery")
        shown = subprocess.run(["ps", "axeww"], capture_output=True, encoding="utf-8", errors="replace", check=True)
        process.kill()
    assert leaks(shown.stdout) == []


def test_a_config_with_mistakes_does_not_show_its_secrets(guard: Guard) -> None:
    """A misspelt or malformed secret is not quoted in the error."""
    guard.configure(
        f'[redis]\npasword = "{SECRETS["redis"]}"\npassword = ["{SECRETS["mysql"]}"]\n'
        f'url = "redis+x://:{SECRETS["key"]}@h"\n[wecom]\nwebhook = {{ key = "{SECRETS["corp"]}" }}\n'
    )
    done = guard("doctor")
    assert done.code == 2
    assert len(done.err.splitlines()) == 3
    assert leaks(done.out + done.err) == []


def test_a_bug_is_one_line_and_its_traceback_is_redacted(
    guard: Guard, redis_server: RedisServer, tmp_path: Path
) -> None:
    """70, the traceback in the log, and no secret in either."""
    breaker = tmp_path / "break"
    breaker.mkdir()
    (breaker / "sitecustomize.py").write_text(
        "import restart_guard.doctor.examine as d\n"
        "def broken(*a, **k): raise RuntimeError('it broke near redis-s3cret!/pw')\n"
        "d.examine = broken\n"
    )
    guard.configure(f'[redis]\npassword = "{SECRETS["redis"]}"\n')
    done = guard("doctor", environ={"PYTHONPATH": str(breaker)})
    assert done.code == 70
    assert len(done.err.splitlines()) == 1
    assert f"the traceback is in {guard.state}/restart-guard.log" in done.err
    log = (guard.state / "restart-guard.log").read_text()
    assert "RuntimeError: it broke near ***" in log
    assert leaks(log + done.err) == []
