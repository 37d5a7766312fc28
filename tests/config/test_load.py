"""Config: typed, frozen, every problem at once and with its key; secrets never shown."""

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restart_guard.alerts.channels.registry import options as channel_options
from restart_guard.config import load as config_file
from restart_guard.config.options import NAMED_SECTIONS, SECTIONS, AlertOptions, Backoff, Config, Health
from restart_guard.errors import ConfigError, SecretError

ROOT = Path(__file__).parents[2]
CHECK = '[checks.a]\nkeys = ["k"]\n'


def load(tmp_path: Path, text: str, mode: int = 0o600) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return config_file.load(path, {}, channel_options)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return [line.removeprefix(f"{tmp_path}/config.toml: ") for line in caught.value.problems]


def test_the_example_loads_and_names_every_option() -> None:
    """config.example.toml is a config, and each option there is stands in it, if only as a comment."""
    text = (ROOT / "config.example.toml").read_text()
    config = config_file.load(ROOT / "config.example.toml", {}, channel_options)
    assert set(config.checks) == {"metadata", "文章统计"}
    kinds: list[type[msgspec.Struct]] = [*SECTIONS.values(), *NAMED_SECTIONS.values(), AlertOptions, Backoff, Health]
    for kind in kinds:
        for field in msgspec.structs.fields(kind):
            shown = (f"\n{field.name} = ", f"\n# {field.name} = ", f"\n[targets.web.{field.name}] ")
            assert any(one in text for one in shown), field.name


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        ("61 * * * *", "minute"),
        ("0 24 * * *", "hour"),
        ("0 2 * * 8", "day of week"),
        ("0 2 0 * *", "day of month"),
        ("0 2 * mai *", "month"),
        ("5-1 * * * *", "minute"),
        ("5/2 * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("1-2-3 * * * *", "minute"),
        ("0 2 * * 1#2", "day of week"),
    ],
)
def test_a_schedule_that_cron_would_not_take(tmp_path: Path, schedule: str, field: str) -> None:
    """Told when the config is read: some of what runs jobs skip a bad line without a word."""
    (found,) = problems(tmp_path, f'[timer]\ncheck_redis = "{schedule}"\n')
    assert f"timer.check_redis: expected a {field} of " in found


def test_schedules_that_cron_takes(tmp_path: Path) -> None:
    """Steps, ranges, lists and names of months and days are accepted."""
    for schedule in ("*/5 8-18/2 1,15 jan-mar,12 mon-fri", "0-59/7 0 * * 7", "0 2 * * Sun"):
        assert load(tmp_path, f'[timer]\ncheck_redis = "{schedule}"\n').timer


def test_the_examples_comments_show_real_defaults(tmp_path: Path) -> None:
    """With every commented option of the example switched on, it still holds only options that exist."""
    lines = (ROOT / "config.example.toml").read_text().splitlines()
    on = [line.removeprefix("# ") if line.startswith("# ") and " = " in line[:24] else line for line in lines]
    excluded = ('url = "redis', "socket = ", "tcp = ", 'command = "sh', "redis_heartbeat = ", 'user = "www-data"')
    on = [line for line in on if not line.startswith(excluded)]
    assert load(tmp_path, "\n".join(on)).redis.service == "mymaster"


def test_all_problems_are_told_at_once_each_with_its_key(tmp_path: Path) -> None:
    """One line a problem: the dotted key, what was expected, what was there; unknown keys with a suggestion."""
    found = problems(
        tmp_path,
        """
        sate_dir = "x"
        [targets.web]
        [redis]
        password = { env = "X", file = "y" }
        [mysql]
        user = 5
        databse = "irmdata"
        [checks."数据"]
        keys = ["a", 3]
        type = "strng"
        retries = -1
        retry_delay = 5
        """,
    )
    assert found == [
        "sate_dir: there is no such option (did you mean state_dir?).",
        'redis.password: expected text, { env = "NAME" } or { file = "path" }, was something else.',
        "mysql.databse: there is no such option (did you mean database?).",
        "mysql.user: expected text on one line, not empty, was 5.",
        "mysql.database: expected a MySQL name of letters, digits, _ and $, but it is missing.",
        "targets.web.program: expected a path, but it is missing.",
        "checks.数据.keys: expected a list of texts, was a list with 3 in it.",
        'checks.数据.type: expected one of "any", "string", "hash", "list", "set", "zset", "stream", was "strng".',
        "checks.数据.retries: expected a whole number from 0 to 100, was -1.",
        'checks.数据.retry_delay: expected a duration such as "30s" or "7d1h", was 5.',
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[checks.a]\n", "checks.a.keys: expected keys, patterns or both; neither is there."),
        (CHECK + 'max_age = "1d"', "checks.a.full_ttl: expected the TTL"),
        (CHECK + 'recover = "restart:wb"\n[targets.web]\nprogram="p"', "checks.a.recover: there is no [targets.wb]"),
        (CHECK + 'recover = "reboot"', 'checks.a.recover: expected "restart:TARGET"'),
        (CHECK + "recover = \"command:sh -c 'x\"", "checks.a.recover: the command cannot be split into words"),
        (CHECK + 'type = "hash"\nformat = "json"', 'checks.a.format: expected type = "string"'),
        (CHECK + "min_size = 5\nmax_size = 4", "checks.a.max_size: expected at least min_size"),
        (CHECK + "min_keys = 5", "checks.a.min_keys: expected patterns"),
        ('[checks."a/b"]\nkeys = ["k"]', 'checks."a/b": expected a name of printable characters'),
        ('[redis]\nurl = "redis://h/notanumber"', "redis.url: expected a database number"),
        ('[redis]\nurl = "redis+sentinel://h"', "redis.url: expected it to start with redis://"),
        ('[redis]\nurl = "redis://h?retry_on_error=x"', "redis.url: expected no ?option"),
        ('[redis]\nsentinels = ["h"]\nservice = "m"', 'redis.sentinels: expected "host:port"'),
        ('[targets.a]\nprogram = "x"\n[targets.b]\nprogram = "./x"', "targets.b.program: expected one of its own"),
        ('[targets.a]\nprogram = "x"\n[targets.b]\nprogram = "y"\npid_file = "x.pid"', "targets.b.pid_file: expected"),
        ('[targets.a]\nprogram = "x"\nkill_after = "1h"', "targets.a.kill_after: expected at most stop_timeout"),
        ('[targets.a]\nprogram = "x"\n[targets.a.restart_backoff]\nbase = "0s"', "targets.a.restart_backoff.base: "),
        ('[targets.a]\nprogram = "x"\nrestart_backoff = { max = "1ms" }', "targets.a.restart_backoff.max: "),
        ('[targets.a]\nprogram = "x"\nrestart_backoff = { maxi = "1ms" }', "targets.a.restart_backoff.maxi: there"),
        ('[targets.a]\nprogram = "x"\n[targets.a.health]', "targets.a.health: expected exactly one of"),
        ('[targets.a]\nprogram = "x"\nhealth = { tcp = "h" }', 'targets.a.health.tcp: expected "host:port"'),
        ('[targets.a]\nprogram = "x"\nhealth = { http = "h:1" }', "targets.a.health.http: expected an address such as"),
        ('[targets.a]\nprogram = "x"\nhealth = { http = "http://h:x/" }', "targets.a.health.http: Port"),
        ('[targets.a]\nprogram = "x"\npre_stop = "a \'"', "targets.a.pre_stop: the command cannot be split"),
        ('[targets.a]\nprogram = "x"\numask = "9"', "targets.a.umask: expected an octal mask"),
        ('[redis]\nsentinels = ["h:1"]', "redis.service: expected the service's name"),
        ('[mysql]\nuser = "u"\ndatabase = "a;b"', "mysql.database: expected a MySQL name"),
        ('[mysql]\nuser = "u"\ndatabase = "d"\ncolumns = { status = "s" }', "mysql.columns.status: there is no"),
        ('[mysql]\nuser = "u"\ndatabase = "d"\nstatus_values = { success = "s" }', "mysql.status_values: expected"),
        ("[wecom]\n", "wecom.webhook: expected a webhook, or corp_id"),
        ('[wecom]\ncorp_id = "c"', "wecom.corp_secret: expected a value"),
        ('[wecom]\nwebhook = "k"\napi_base = "http://wecom.example"', "wecom.api_base: expected https://"),
        ('[timer]\ncheck_redis = "every monday"', "timer.check_redis: expected five cron fields"),
        ('[targets.web]\nprogram = "p"\nstop_signal = "TREM"', "targets.web.stop_signal: expected a signal's name"),
        ('[targets.web]\nprogram = "p"\ncommand = "  "', "targets.web.command: expected a command"),
        ('[targets.web]\nprogram = "p"\ncommand = "sh -c \'x"', "targets.web.command: the command cannot be split"),
        ("x = [", "not TOML: "),
    ],
)  # fmt: skip
def test_what_is_wrong_between_options_is_told(tmp_path: Path, text: str, expected: str) -> None:
    """Options that are each right can still be wrong together."""
    assert any(line.startswith(expected) for line in problems(tmp_path, text)), problems(tmp_path, text)


def test_a_secret_is_never_shown_by_repr_or_error(tmp_path: Path) -> None:
    """Neither the whole config nor an error beside the secret shows it."""
    text = f'[redis]\nurl = "redis://user:hunter2-secret@h:1/0"\npassword = "other-secret-1"\n{CHECK}'
    config = load(tmp_path, text)
    assert "secret-1" not in repr(config)
    assert "hunter2" not in repr(config)
    assert "other-secret-1" not in "".join(problems(tmp_path, text + 'retries = "x"'))
    assert config.redact("login other-secret-1, hunter2-secret at h:1/0") == "login ***, *** at h:1/0"


def test_a_secret_comes_from_a_file_or_the_environment_when_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file starts at the config, its last newline is not the secret's; what is missing is named."""
    config = load(tmp_path, '[redis]\npassword = { file = "pw" }\nsentinel_password = { env = "RG_TEST_PW" }\n' + CHECK)
    password, sentinel_password = config.redis.password, config.redis.sentinel_password
    assert password is not None
    assert sentinel_password is not None
    with pytest.raises(SecretError, match=r"redis.password: the secret file .*/pw cannot be read: No such file"):
        password.reveal()
    (tmp_path / "pw").write_text("geheim\n")
    assert password.reveal() == "geheim"
    with pytest.raises(SecretError, match=r"redis.sentinel_password: the environment variable RG_TEST_PW is not set"):
        sentinel_password.reveal()
    monkeypatch.setenv("RG_TEST_PW", "x")
    assert sentinel_password.reveal() == "x"


def test_a_plain_secret_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    """A config of mode 0644 is warned of when it holds a password, and only then."""
    assert load(tmp_path, '[redis]\npassword = "pppp"\n' + CHECK, mode=0o644).warnings != ()
    assert load(tmp_path, '[redis]\npassword = "pppp"\n' + CHECK, mode=0o600).warnings == ()
    assert load(tmp_path, '[redis]\nurl = "redis://h"\n' + CHECK, mode=0o644).warnings == ()


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    """Not at the working directory, which is another one under cron."""
    config = load(tmp_path, f'state_dir = "a/../state"\n[targets.web]\nprogram = "服务/run.py"\n{CHECK}')
    assert config.state_dir == tmp_path / "state"
    assert config.targets["web"].program == tmp_path / "服务/run.py"


def test_a_config_is_frozen(tmp_path: Path) -> None:
    """Neither an option nor a section can be changed after loading."""
    config = load(tmp_path, CHECK)
    with pytest.raises(AttributeError):
        config.redis.timeout = 3  # type: ignore[misc, assignment]
    with pytest.raises(TypeError):
        config.checks["b"] = config.checks["a"]  # type: ignore[index]


def test_the_config_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """-c, then the environment, then the working directory, then XDG; if there is none, all places are named."""
    monkeypatch.chdir(tmp_path)
    xdg = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    with pytest.raises(ConfigError, match=r"looked for config.toml, .*/xdg/restart-guard/config.toml, /etc"):
        config_file.find(None, xdg)
    (tmp_path / "xdg/restart-guard").mkdir(parents=True)
    (tmp_path / "xdg/restart-guard/config.toml").touch()
    assert config_file.find(None, xdg) == tmp_path / "xdg/restart-guard/config.toml"
    (tmp_path / "config.toml").touch()
    assert config_file.find(None, xdg) == tmp_path / "config.toml"
    assert config_file.find(None, xdg | {"RESTART_GUARD_CONFIG": "b.toml"}) == tmp_path / "b.toml"
    assert config_file.find(Path("a.toml"), xdg | {"RESTART_GUARD_CONFIG": "b.toml"}) == tmp_path / "a.toml"


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    """A missing file, a folder and text that is not UTF-8 give a ConfigError with the reason."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        config_file.load(tmp_path / "none.toml", {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config_file.load(tmp_path, {})
    (tmp_path / "latin").write_bytes(b'state_dir = "\xe9"')
    with pytest.raises(ConfigError, match="expected UTF-8 text, byte 14"):
        config_file.load(tmp_path / "latin", {})
    (tmp_path / "deep").write_text("x = " + "[" * 100_000)
    with pytest.raises(ConfigError, match=r"nested too deeply|not TOML"):
        config_file.load(tmp_path / "deep", {})


KEYS = st.sampled_from(
    [
        "state_dir",
        "redis",
        "mysql",
        "wecom",
        "timer",
        "checks",
        "targets",
        "refreshes",
        "url",
        "password",
        "keys",
        "patterns",
        "retries",
        "recover",
        "webhook",
        "host",
        "user",
        "database",
        "columns",
        "program",
        "query",
        "type",
        "environment",
        "min_ttl",
        "sentinels",
        "service",
        "check_redis",
    ]
) | st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.datetimes() | st.text(max_size=20)
    | st.sampled_from(["redis://h", "5s", "string", "command:'", "restart:x", "none", "json", "0 2 * * 1", "http://h"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=30,
)  # fmt: skip


@pytest.mark.slow
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_toml_gives_a_config_or_sentences(data: dict[str, Any]) -> None:
    """Whatever tomllib can produce: no traceback, and every problem starts with the file."""
    try:
        config_file.parse(data, path=Path("/c.toml"), environ=os.environ)
    except ConfigError as error:
        assert error.problems
        assert all(line.startswith("/c.toml: ") for line in error.problems)


@given(st.text() | st.text(alphabet='[]{}="a.\n#1'))
def test_any_text_gives_a_config_or_sentences(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """No text makes the loader raise anything but ConfigError."""
    path = tmp_path_factory.mktemp("any") / "c.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        config_file.load(path, {})
    except ConfigError as error:
        assert error.problems
    else:
        tomllib.loads(path.read_text(encoding="utf-8"))


def test_a_secret_in_an_environment_is_told_like_any_other(tmp_path: Path) -> None:
    """A config that others can read; by the name, never with the value."""
    text = '[targets.a]\nprogram = "a"\nenvironment = { DB_PASSWORD = "hunter2", PORT = "1", API_KEY = "k" }\n'
    path = tmp_path / "config.toml"
    path.write_text(text)
    path.chmod(0o644)
    warnings = config_file.load(path, {}).warnings
    assert len(warnings) == 2
    assert "targets.a.environment.DB_PASSWORD" in warnings[0]
    assert "hunter2" not in str(warnings)
    path.chmod(0o600)
    assert config_file.load(path, {}).warnings == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[redis]\npassword = ""', 'redis.password: expected text, { env = "NAME" } or { file = "path" }, was empty.'),
        ('[checks.a]\nkeys = ["k", ""]', 'checks.a.keys: expected a list of texts, was a list with "" in it.'),
        (
            '[mysql]\nuser = ""\ndatabase = "d"\n[refreshes.a]\nquery = "SELECT 1, 2"\nkey = "a"\ntype = "hash"',
            'mysql.user: expected text on one line, not empty, was "".',
        ),
    ],
)
def test_one_mistake_is_one_problem(tmp_path: Path, text: str, told: str) -> None:
    """The true one: what is empty is called so, and a section that is there but wrong is not called missing."""
    path = tmp_path / "config.toml"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError) as error:
        config_file.load(path, {})
    assert str(error.value).splitlines() == [f"{path}: {told}"]
