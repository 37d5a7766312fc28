"""Every option: its name, type, default and expected value in words. Values only; ``load`` reads them."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple
from urllib.parse import quote

from msgspec import Meta, Struct

from restart_guard.config.secrets import Secret
from restart_guard.config.values import Percent
from restart_guard.durations import Duration
from restart_guard.sizes import Size

Text = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00-\x1f\x7f]*\Z", description="text on one line, not empty")]
Query = Annotated[str, Meta(min_length=1, description="text that is not empty")]
Texts = Annotated[tuple[Text, ...], Meta(description="a list of texts")]
Count = Annotated[int, Meta(ge=0, le=10**12, description="a whole number from 0")]
Port = Annotated[int, Meta(ge=1, le=65535, description="a port number")]
Identifier = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_$]{1,64}\Z", description="a MySQL name of letters, digits, _ and $")
]
Cron = Annotated[str, Meta(pattern=r"^\s*(\S+\s+){4}\S+\s*\Z", description='five cron fields such as "0 2 * * 1"')]


class Backoff(Struct, frozen=True, kw_only=True):
    """How long after a launch the next one may be: ``first`` after a launch that was well, then base, 2 × base … max.

    A program that has run for ``reset_after`` is well again.
    """

    first: Duration = Duration(0)
    base: Duration = Duration(1)
    max: Duration = Duration(300)
    reset_after: Duration = Duration(60)


class Health(Struct, frozen=True, kw_only=True):
    """How a running program shows that it does not hang: exactly one of the first four."""

    http: Text | None = None
    tcp: Text | None = None
    command: Text | None = None
    redis_heartbeat: Text | None = None
    interval: Duration = Duration(10)
    timeout: Duration = Duration(5)
    failures: Annotated[int, Meta(ge=1, le=1000, description="a whole number from 1 to 1000")] = 3


class TargetOptions(Struct, frozen=True, kw_only=True):
    """A guarded program."""

    program: Path
    directory: Path | None = None
    pid_file: Path | None = None
    command: Text = "{python} {program}"
    shell: bool = False
    identify: Literal["auto", "argv", "exe", "cwd", "proc_exe", "proc_cwd", "lsof_cwd"] = "auto"
    log_file: Path | None = None
    log_max_size: Size | None = None
    log_keep: Annotated[int, Meta(ge=1, le=1000, description="a whole number from 1 to 1000")] = 3
    max_memory: Size | None = None
    start_timeout: Duration = Duration(10)
    min_uptime: Duration = Duration(1)
    stop_signal: Text = "TERM"
    stop_timeout: Duration = Duration(30)
    stop_mode: Literal["mixed", "group"] = "mixed"
    kill_after: Duration | None = None
    pre_stop: Text | None = None
    pre_stop_timeout: Duration = Duration(30)
    reload_signal: Text = "HUP"
    reload_command: Text | None = None
    restart_backoff: Backoff = Backoff()
    health: Health | None = None
    environment: Annotated[Mapping[str, str], Meta(description="a table of texts")] = MappingProxyType({})
    environment_file: Path | None = None
    pass_environment: Texts = ()
    umask: Annotated[str, Meta(pattern=r"^0?[0-7]{3}\Z", description='an octal mask such as "027"')] | None = None
    user: Text | None = None


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
    require_persistence: bool = False


class MySql(Struct, frozen=True, kw_only=True):
    """Where the table ``task_monitor`` is, and how it differs from the usual one."""

    host: Text = "localhost"
    port: Port = 3306
    socket: Path | None = None
    user: Text
    password: Secret | None = None
    database: Identifier
    table: Identifier = "task_monitor"
    columns: Annotated[Mapping[str, Identifier], Meta(description="a table of column names")] = MappingProxyType({})
    status_values: Annotated[Mapping[str, Text], Meta(description="a table of texts")] = MappingProxyType({})
    tls: Literal["preferred", "required", "verify-ca", "verify", "off"] = "preferred"
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    timeout: Duration = Duration(4)


class WeCom(Struct, frozen=True, kw_only=True):
    """The receivers of alerts: a group robot, persons through an app, or both."""

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


class AlertOptions(Struct, frozen=True, kw_only=True):
    """What all further ways to a person have in common. ``only`` are patterns such as ``check:*``. ``fallback_for`` is
    another way: this one is used only if a message has not arrived there ``after`` some time."""

    kind: Text
    only: Texts = ()
    language: Literal["zh", "en"] | None = None
    fallback_for: Text | None = None
    after: Duration = Duration(15 * 60)


class Alert(NamedTuple):
    """A further way to a person: ``options`` are those of its kind, in ``alerts/channels``."""

    common: AlertOptions
    options: Struct

    def wants(self, kind: str, name: str) -> bool:
        """Whether an event is for this one."""
        return not self.common.only or any(fnmatchcase(f"{kind}:{name}", one) for one in self.common.only)


class Ping(Struct, frozen=True, kw_only=True):
    """A dead man's switch: a monitor elsewhere that alerts a person when pings stop."""

    url: Secret


class Page(Struct, frozen=True, kw_only=True):
    """Where the page is written that shows everything; by default into ``state_dir``."""

    file: Path | None = None
    mode: Annotated[str, Meta(pattern=r"^0?[0-7]{3}\Z", description='an octal mode such as "0644"')] = "0600"


class Metrics(Struct, frozen=True, kw_only=True):
    """Where Prometheus' node_exporter collects metrics from files."""

    textfile: Path


class Check(Struct, frozen=True, kw_only=True):
    """Redis keys and the rules for a good read of them."""

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
    schedule: Cron | None = None


class Refresh(Struct, frozen=True, kw_only=True):
    """A query on MySQL and the Redis key or keys that are rebuilt from it."""

    query: Query
    key: Text
    type: Literal["string", "hash", "list", "set", "zset", "json"]
    ttl: Duration = Duration(7 * 86400 + 3600)
    batch: Annotated[int, Meta(ge=1, le=3000, description="a whole number from 1 to 3000")] = 1000
    on_empty: Literal["fail", "clear"] = "fail"
    max_change: Percent = Percent(0.5)
    index: Text | None = None
    timeout: Duration = Duration(600)
    schedule: Cron | None = None


class Times(NamedTuple):
    """Times of the lease protocol, in seconds. ``gap``: how long this host may be without Redis and still count the
    silence of others."""

    lease: float
    beat: float
    fence: float
    gap: float


class Standby(Struct, frozen=True, kw_only=True):
    """A group of hosts with this config, of which one runs the targets."""

    group: Text
    node: Text | None = None
    lease: Duration = Duration(10)
    beat: Duration | None = None
    fence: Duration | None = None
    gap: Duration | None = None
    min_acks: Annotated[int, Meta(ge=0, le=100, description="a whole number from 0 to 100")] | None = None
    targets: Texts | None = None
    channel: Text = "heartbeat"
    fence_store: Literal["mysql", "none"] = "mysql"

    @property
    def times(self) -> Times:
        """With defaults that leave room for two lost beats: before a watch begins anew (``gap`` is four of them) and
        before a leader begins to stop (half of ``fence`` is three)."""
        return Times(
            lease=self.lease,
            beat=self.lease * 0.06 if self.beat is None else self.beat,
            fence=self.lease * 0.38 if self.fence is None else self.fence,
            gap=self.lease * 0.24 if self.gap is None else self.gap,
        )


class Timer(Struct, frozen=True, kw_only=True):
    """When cron runs the jobs."""

    check_redis: Cron = "0 2 * * 1"
    restart: Cron = "* * * * *"
    log_dir: Path | None = None


class Config(Struct, frozen=True, kw_only=True):
    """The whole config. ``redact`` removes every secret of this config from a text; ``secret_variables`` are the
    environment variables that hold one."""

    path: Path
    state_dir: Path
    targets: Mapping[str, TargetOptions]
    redis: Redis
    mysql: MySql | None
    wecom: WeCom | None
    alerts: Mapping[str, Alert]
    ping: Ping | None
    page: Page | None
    metrics: Metrics | None
    checks: Mapping[str, Check]
    refreshes: Mapping[str, Refresh]
    timer: Timer | None
    standby: Standby | None
    warnings: tuple[str, ...]
    redact: Callable[[str], str]
    secret_variables: frozenset[str] = frozenset()

    @property
    def standby_targets(self) -> tuple[str, ...]:
        """The targets that only the leader of the group runs."""
        if self.standby is None:
            return ()
        return tuple(self.targets) if self.standby.targets is None else self.standby.targets

    @property
    def standby_name(self) -> str:
        """The name of the group's files: a group's name may hold anything, a file's name may not, and is limited to 255
        bytes."""
        group = quote(self.standby.group, safe="") if self.standby is not None else ""
        if len(group) > 100:
            # Few groups have such a name.
            from zlib import crc32

            group = f"{group[:80]}-{crc32(group.encode()):08x}"
        return f"standby-{group}"

    @property
    def standby_acks(self) -> int:
        """The number of replicas that must have a renewal of the lease."""
        wanted = None if self.standby is None else self.standby.min_acks
        return (1 if self.redis.sentinels else 0) if wanted is None else wanted

    @property
    def permit(self) -> Path | None:
        """The file that says until when this host may run the group's targets."""
        return None if self.standby is None else self.state_dir / f"{self.standby_name}.permit"

    @property
    def language(self) -> Literal["zh", "en"]:
        """The language of alerts and of ``task_monitor`` rows."""
        return "zh" if self.wecom is None else self.wecom.language

    @property
    def alert_channels(self) -> list[str]:
        """The destinations of an alert."""
        robot = ["wecom"] if self.wecom is not None and self.wecom.webhook is not None else []
        app = ["wecom_app"] if self.wecom is not None and self.wecom.corp_id is not None else []
        return [*robot, *app, *self.alerts]

    def language_of(self, channel: str) -> Literal["zh", "en"]:
        """The language of the messages of an alert channel."""
        return (self.alerts[channel].common.language if channel in self.alerts else None) or self.language


SECTIONS: dict[str, type[Struct]] = {
    "redis": Redis,
    "mysql": MySql,
    "wecom": WeCom,
    "ping": Ping,
    "page": Page,
    "metrics": Metrics,
    "standby": Standby,
    "timer": Timer,
}
NAMED_SECTIONS: dict[str, type[Struct]] = {"targets": TargetOptions, "checks": Check, "refreshes": Refresh}
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
    "fencing_token",
)
