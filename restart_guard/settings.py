"""Every option there is: its name, type, default and what it expects in words. Values only; ``config`` reads them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from msgspec import Meta, Struct

from restart_guard.values import Duration, Secret

Text = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00-\x1f\x7f]*\Z", description="text on one line, not empty")]
Query = Annotated[str, Meta(min_length=1, description="text that is not empty")]
Texts = Annotated[tuple[Text, ...], Meta(description="a list of texts")]
Count = Annotated[int, Meta(ge=0, le=10**12, description="a whole number from 0")]
Port = Annotated[int, Meta(ge=1, le=65535, description="a port number")]
Identifier = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_$]{1,64}\Z", description="a MySQL name of letters, digits, _ and $")
]
Cron = Annotated[str, Meta(pattern=r"^\s*(\S+\s+){4}\S+\s*\Z", description='five cron fields such as "0 2 * * 1"')]


class Target(Struct, frozen=True, kw_only=True):
    """A guarded program."""

    program: Path
    command: Text = "{python} {program}"
    shell: bool = False
    identify: Literal["auto", "argv", "exe", "cwd", "proc_exe", "proc_cwd", "lsof_cwd"] = "auto"
    log_file: Path | None = None
    start_timeout: Duration = Duration(10)
    min_uptime: Duration = Duration(1)
    stop_signal: Text = "TERM"
    stop_timeout: Duration = Duration(30)
    reload_signal: Text = "HUP"
    environment: Annotated[Mapping[str, str], Meta(description="a table of texts")] = MappingProxyType({})


class Redis(Struct, frozen=True, kw_only=True):
    """Where Redis is: one server by URL, or a Sentinel service."""

    url: Secret | None = None
    sentinels: Texts | None = None
    service: Text | None = None
    database: Annotated[int, Meta(ge=0, le=65535, description="a database number from 0")] | None = None
    username: Text | None = None
    password: Secret | None = None
    sentinel_username: Text | None = None
    sentinel_password: Secret | None = None
    tls: bool = False
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    timeout: Duration = Duration(5)


class MySql(Struct, frozen=True, kw_only=True):
    """Where the table ``task_monitor`` is and how it differs from the usual one."""

    host: Text = "localhost"
    port: Port = 3306
    socket: Path | None = None
    user: Text
    password: Secret | None = None
    database: Identifier
    table: Identifier = "task_monitor"
    columns: Annotated[Mapping[str, Identifier], Meta(description="a table of column names")] = MappingProxyType({})
    status_values: Annotated[Mapping[str, Text], Meta(description="a table of texts")] = MappingProxyType({})
    tls: Literal["preferred", "required", "verify", "off"] = "preferred"
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    timeout: Duration = Duration(4)


class WeCom(Struct, frozen=True, kw_only=True):
    """Who is told: a group robot, persons through an app, or both."""

    webhook: Secret | None = None
    mentioned_mobiles: Texts = ()
    mentioned_users: Texts = ()
    corp_id: Text | None = None
    corp_secret: Secret | None = None
    agent_id: Count | None = None
    to_users: Texts | None = None
    api_base: Text = "https://qyapi.weixin.qq.com"
    allow_http: bool = False
    proxy: Secret | None = None
    ca_file: Path | None = None
    language: Literal["zh", "en"] = "zh"
    repeat_interval: Duration = Duration(4 * 3600)


class Check(Struct, frozen=True, kw_only=True):
    """Redis keys and what a good read of them is."""

    keys: Texts = ()
    patterns: Texts = ()
    min_keys: Count | None = None
    type: Literal["any", "string", "hash", "list", "set", "zset", "stream"] = "any"
    format: Literal["any", "json"] = "any"
    min_size: Count = 1
    max_size: Count | None = None
    min_ttl: Duration | None = None
    max_ttl: Duration | None = None
    full_ttl: Duration | None = None
    max_age: Duration | None = None
    timeout: Duration = Duration(300)
    retries: Annotated[int, Meta(ge=0, le=100, description="a whole number from 0 to 100")] = 3
    retry_delay: Duration = Duration(5)
    wait_timeout: Duration = Duration(120)
    recover: Text = "none"
    recover_timeout: Duration = Duration(300)
    recover_when_unsafe: bool = False


class Refresh(Struct, frozen=True, kw_only=True):
    """A query on MySQL and the Redis key rebuilt from it."""

    query: Query
    key: Text
    type: Literal["string", "hash", "list", "set", "zset", "json"]
    ttl: Duration | None = None


class Timer(Struct, frozen=True, kw_only=True):
    """When cron runs what."""

    check_redis: Cron = "0 2 * * 1"
    restart: Cron = "* * * * *"
    log_dir: Path | None = None


class Config(Struct, frozen=True, kw_only=True):
    """Everything that was configured. ``redact`` takes every secret of this config out of a text."""

    path: Path
    state_dir: Path
    targets: Mapping[str, Target]
    redis: Redis
    mysql: MySql | None
    wecom: WeCom | None
    checks: Mapping[str, Check]
    refreshes: Mapping[str, Refresh]
    timer: Timer | None
    warnings: tuple[str, ...]
    redact: Callable[[str], str]


SECTIONS: dict[str, type[Struct]] = {"redis": Redis, "mysql": MySql, "wecom": WeCom, "timer": Timer}
NAMED_SECTIONS: dict[str, type[Struct]] = {"targets": Target, "checks": Check, "refreshes": Refresh}
COLUMNS = (
    "task_description",
    "task_command",
    "task_status",
    "task_execution_time",
    "log_path",
    "run_id",
    "attempts",
    "duration",
    "host",
    "detail",
)
