"""Rules between options that are each valid by themselves, with the texts of their problems. Pure."""

import re
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from restart_guard.config.options import (
    COLUMNS,
    Backoff,
    Check,
    Health,
    MySql,
    Ping,
    Redis,
    Refresh,
    Standby,
    TargetOptions,
    Timer,
    WeCom,
)
from restart_guard.config.values import parse_place, parse_redis_url
from restart_guard.config.wording import key, shown, suggestion
from restart_guard.durations import Duration
from restart_guard.paths import real

PING_IS_OPEN = "ping.url: expected https://, since the address holds the key; plain http needs a loopback address."


def cross_checks(sections: Mapping[str, Any], named: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Problems between options: dotted key, expected value, given value.

    A section that could not be read is None; its problem has been reported already.
    """
    yield from _redis_problems(sections.get("redis") or Redis())
    looks: dict[str, Callable[[Any], Iterator[str]]] = {
        "mysql": _mysql_problems,
        "wecom": _wecom_problems,
        "ping": _ping_problems,
        "standby": lambda standby: _standby_problems(standby, named["targets"]),
        "timer": _timer_problems,
    }
    for name, look in looks.items():
        if sections.get(name):
            yield from look(sections[name])
    for name, target in named["targets"].items():
        if target is None:
            continue
        yield from _target_problems(f"targets.{key(name)}", target)
    yield from _shared_problems({name: target for name, target in named["targets"].items() if target is not None})
    for name, refresh in named["refreshes"].items():
        if refresh is not None:
            yield from _refresh_problems(f"refreshes.{key(name)}", refresh, has_mysql="mysql" in sections)
    for name, check in named["checks"].items():
        if check is None:
            continue
        yield from _check_problems(f"checks.{key(name)}", check, named)


def _target_problems(where: str, target: TargetOptions) -> Iterator[str]:
    for option in ("stop_signal", "reload_signal"):
        word = getattr(target, option)
        if word.removeprefix("SIG") not in {known.name.removeprefix("SIG") for known in signal.Signals}:
            yield f"{where}.{option}: expected a signal's name such as TERM, was {shown(word)}."
    for option in ("command", "pre_stop", "reload_command"):
        if getattr(target, option) is not None:
            yield from _command_problems(f"{where}.{option}", getattr(target, option))
    yield from _pid_file_problems(where, target)
    if target.kill_after is not None and target.kill_after > target.stop_timeout:
        yield f"{where}.kill_after: expected at most stop_timeout, was more."
    yield from _backoff_problems(f"{where}.restart_backoff", target.restart_backoff)
    if target.log_max_size is not None and target.log_file is None:
        yield f"{where}.log_max_size: expected a log_file too, which is rotated when it is larger."
    if target.health is not None:
        yield from _health_problems(f"{where}.health", target.health)


def _pid_file_problems(where: str, target: TargetOptions) -> Iterator[str]:
    """A pid file that the program writes itself, and removes at its end, is no pid lock."""
    lock = target.pid_file or target.program.with_name(f"{target.program.name}.pid")
    with suppress(ValueError):  # told elsewhere
        for word in shlex.split(target.command):
            named = word.partition("=")[2] if word.startswith("-") else word
            if not named.endswith(lock.name):
                continue
            if real((target.directory or target.program.parent) / named) == real(lock):
                yield (
                    f"{where}.pid_file: expected a path of restart-guard's own, but the command gives "
                    f"{shown(str(lock))} to the program, which removes it when it ends."
                )


def _shared_problems(targets: Mapping[str, TargetOptions]) -> Iterator[str]:
    """Two targets with one program, or one pid lock, would be started and stopped for one another."""
    seen: dict[tuple[str, str], str] = {}
    for name, target in targets.items():
        pid_file = target.pid_file or target.program.with_name(f"{target.program.name}.pid")
        for option, path in (("program", target.program), ("pid_file", pid_file)):
            other = seen.setdefault((option, real(path)), name)
            if other != name:
                yield f"targets.{key(name)}.{option}: expected one of its own, but targets.{key(other)} has the same."
                break


def _standby_problems(standby: Standby, targets: Mapping[str, TargetOptions]) -> Iterator[str]:
    times = standby.times
    for option in ("lease", "beat", "fence", "gap"):
        if getattr(times, option) < 0.01:
            yield f"standby.{option}: expected at least 10ms."
    if times.fence + times.gap + times.beat >= times.lease:
        values = ", ".join(f"{option} is {getattr(times, option):g}s" for option in ("fence", "gap", "beat"))
        yield (
            "standby.lease: must be longer than fence + gap + beat, so that a host that is cut off has stopped "
            f"by then: {values}, the lease is {times.lease:g}s."
        )
    if times.gap < 1.5 * times.beat:
        yield "standby.gap: must be at least 1.5 × beat; otherwise a silent leader looks like a lost connection."
    if "|" in standby.group or "|" in (standby.node or ""):
        yield "standby.group: expected a name without | (the same for node)."
    for name in targets if standby.targets is None else standby.targets:
        target = targets.get(name)
        if target is not None and target.user is not None:
            yield f"targets.{key(name)}.user: expected none in a standby group: its fence could not read the permit."
        if name not in targets:
            yield f"standby.targets: there is no [targets.{key(name)}]{suggestion(name, list(targets))}."


def _timer_problems(timer: Timer) -> Iterator[str]:
    for option in ("check_redis", "restart"):
        yield from cron_problems(f"timer.{option}", getattr(timer, option))


def _command_problems(where: str, command: str) -> Iterator[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        yield f"{where}: the command cannot be split into words: {error}."
    else:
        if not words:
            yield f"{where}: expected a command, was {shown(command)}."
        for word in words:
            if word[:1] + word[-1:] == "{}" and word not in ("{python}", "{program}"):
                near = suggestion(word[1:-1], ["python", "program"])
                if near:
                    yield f"{where}: there is no {word}{near}."


def _backoff_problems(where: str, backoff: Backoff) -> Iterator[str]:
    if backoff.base <= 0:
        yield f"{where}.base: expected a time longer than 0s."
    if backoff.max < max(backoff.base, backoff.first):
        yield f"{where}.max: expected at least base and first, was less."


def _health_problems(where: str, health: Health) -> Iterator[str]:
    given = [name for name in ("http", "tcp", "command", "redis_heartbeat") if getattr(health, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        yield f"{where}: expected exactly one of http, tcp, command and redis_heartbeat, was {found}."
    if health.http is not None and not health.http.startswith(("http://", "https://")):
        yield f"{where}.http: expected an address such as http://127.0.0.1:8000/, was {shown(health.http)}."
    elif health.http is not None:
        yield from _port_problems(f"{where}.http", health.http)
    if health.tcp is not None:
        try:
            parse_place(health.tcp)
        except ValueError as error:
            yield f"{where}.tcp: {error}."
    if health.command is not None:
        yield from _command_problems(f"{where}.command", health.command)
    for option in ("interval", "timeout"):
        value: Duration = getattr(health, option)
        if not 0.01 <= value <= 3600:
            yield f"{where}.{option}: expected a time from 10ms to 1h."


def _port_problems(where: str, url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        yield f"{where}: {error}."
        return
    if not parts.hostname:
        yield f"{where}: expected a host, was {shown(url)}."


def _redis_problems(redis: Redis) -> Iterator[str]:
    yield from _timeout_problems("redis.timeout", redis.timeout)
    if redis.sentinels == ():
        yield "redis.sentinels: expected at least one, was an empty list."
    if redis.url is not None and redis.sentinels:
        yield "redis.sentinels: expected either url or sentinels, but both are given."
    if redis.sentinels and not redis.service:
        yield 'redis.service: expected the service\'s name, such as "mymaster", but it is missing.'
    if redis.service and not redis.sentinels:
        yield "redis.sentinels: expected the Sentinels of redis.service, but it is missing."
    if redis.url is not None and redis.url.text is not None:
        try:
            parse_redis_url(redis.url.text)
        except ValueError as error:
            yield f"redis.url: {error}."
    for place in redis.sentinels or ():
        try:
            parse_place(place)
        except ValueError as error:
            yield f"redis.sentinels: {error}."


def _timeout_problems(where: str, timeout: Duration) -> Iterator[str]:
    if not 0.01 <= timeout <= 3600:
        yield f"{where}: expected a time from 10ms to 1h."


def _mysql_problems(mysql: MySql) -> Iterator[str]:
    yield from _timeout_problems("mysql.timeout", mysql.timeout)
    for option, known in (("columns", list(COLUMNS)), ("status_values", ["success", "failure"])):
        for word in getattr(mysql, option):
            if word not in known:
                yield f"mysql.{option}.{key(word)}: there is no such option{suggestion(word, known)}."
    if mysql.tls == "verify-ca" and mysql.ca_file is None:
        yield 'mysql.ca_file: expected beside tls = "verify-ca", which accepts any name that this CA has signed.'
    if mysql.status_values and len(mysql.status_values) == 1:
        yield "mysql.status_values: expected both success and failure, was only one of them."


def _wecom_problems(wecom: WeCom) -> Iterator[str]:
    app = {name: getattr(wecom, name) for name in ("corp_id", "corp_secret", "agent_id", "to_users")}
    missing = [name for name, value in app.items() if value in (None, ())]
    if 0 < len(missing) < len(app):
        for name in missing:
            yield f"wecom.{name}: expected a value beside the other options of the app channel, but it is missing."
    elif missing and wecom.webhook is None:
        yield "wecom.webhook: expected a webhook, or corp_id, corp_secret, agent_id and to_users; neither is there."
    if not wecom.api_base.startswith(("https://", "http://")):
        yield f"wecom.api_base: expected an https:// address, was {shown(wecom.api_base)}."
    elif not http_is_allowed(wecom.api_base, wecom):
        yield "wecom.api_base: expected https://; plain http needs a loopback address or allow_http = true."
    if wecom.proxy is not None and (wecom.proxy.text or "").startswith("socks"):
        yield "wecom.proxy: expected an http:// or https:// address; SOCKS is not spoken."


def _ping_problems(ping: Ping) -> Iterator[str]:
    if ping.url.text is None:
        return
    if not ping.url.text.startswith(("http://", "https://")):
        yield "ping.url: expected an address such as https://hc-ping.com/KEY/{job}."
        return
    if not is_private(ping.url.text):
        yield PING_IS_OPEN
    rest = ping.url.text.replace("{job}", "").replace("{host}", "")
    if "{" in rest or "}" in rest:
        yield "ping.url: expected no other braces than {job} and {host} in it."
    try:
        _ = urlsplit(ping.url.text).port
    except ValueError:
        yield "ping.url: its host or port cannot be read."


def http_is_allowed(url: str, wecom: WeCom) -> bool:
    """Plain http would show the key on the network: it is allowed for a loopback address, elsewhere only if
    configured."""
    return wecom.allow_http or is_private(url)


def is_private(url: str) -> bool:
    """Whether nobody on the network sees what is sent there: https, or a loopback address."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    try:
        # Only a config with such a URL needs it.
        from ipaddress import ip_address

        loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        loopback = False
    return url.startswith("https://") or loopback


def _check_problems(where: str, check: Check, named: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if not check.keys and not check.patterns:
        yield f"{where}.keys: expected keys, patterns or both; neither is there."
    if check.min_keys is not None and not check.patterns:
        yield f"{where}.min_keys: expected patterns beside it, since single keys must all exist anyway."
    if check.format == "json" and check.type not in ("any", "string"):
        yield f'{where}.format: expected type = "string" beside "json", was {shown(check.type)}.'
    for low, high in (("min_size", "max_size"), ("min_ttl", "max_ttl")):
        least, most = getattr(check, low), getattr(check, high)
        if least is not None and most is not None and least > most:
            yield f"{where}.{high}: expected at least {low}, was less."
    if check.max_age is not None and check.full_ttl is None:
        yield f'{where}.full_ttl: expected the TTL that the data gets when loaded, such as "7d1h": max_age needs it.'
    if check.schedule is not None:
        yield from cron_problems(f"{where}.schedule", check.schedule)
    yield from _recover_problems(f"{where}.recover", check.recover, named)


_SELECT = re.compile(r"\s*(?:(?:--[^\n]*\n|#[^\n]*\n|/\*.*?\*/|\()\s*)*(?:select|with)\b", re.IGNORECASE | re.DOTALL)
_LITERAL = re.compile(
    r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"|`[^`]*`|--\s[^\n]*|#[^\n]*|/\*(?![!M]).*?\*/", re.DOTALL
)


def _refresh_problems(where: str, refresh: Refresh, *, has_mysql: bool) -> Iterator[str]:
    if not has_mysql:
        yield f"{where}: expected a section [mysql] beside it, where its query is asked."
    bare = _LITERAL.sub(" ", refresh.query).rstrip().rstrip(";")
    if not _SELECT.match(refresh.query):
        yield f"{where}.query: expected one SELECT, was {shown(refresh.query)}."
    elif ";" in bare:
        yield f"{where}.query: expected one statement, was more than one."
    elif re.search(r"\binto\s+(?:outfile|dumpfile|@)", bare, re.IGNORECASE):
        yield f"{where}.query: expected a SELECT that gives rows, was one with INTO."
    if refresh.ttl < 1:
        yield f"{where}.ttl: expected at least 1s."
    if refresh.timeout <= 0:
        yield f"{where}.timeout: expected a time longer than 0s."
    if refresh.index is not None and "{" not in refresh.key:
        yield f"{where}.index: expected columns in the key, such as article:{{article_id}}, was {shown(refresh.key)}."
    if refresh.schedule is not None:
        yield from cron_problems(f"{where}.schedule", refresh.schedule)


def _recover_problems(where: str, recover: str, named: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    kind, _, what = recover.partition(":")
    sections = {"restart": "targets", "refresh": "refreshes"}
    if kind in sections and what:
        known = named[sections[kind]]
        if what not in known:
            yield f"{where}: there is no [{sections[kind]}.{key(what)}]{suggestion(what, list(known))}."
    elif kind == "command" and what.strip():
        yield from _command_problems(where, what)
    elif recover != "none":
        yield f'{where}: expected "restart:TARGET", "refresh:NAME", "command:…" or "none", was {shown(recover)}.'


_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))

_CRON_NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "day of week": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}


def cron_problems(where: str, schedule: str) -> Iterator[str]:
    """Fields that crontab(5) would not accept. Some backends skip a bad file silently, so it is checked when the config
    is read."""
    for text, (field, least, most) in zip(schedule.split(), _CRON_FIELDS, strict=True):
        names = _CRON_NAMES.get(field, ())
        for part in text.lower().split(","):
            span, slash, step = part.partition("/")
            ends = ["0"] if span == "*" else span.split("-")
            numbers = [names.index(end) + least if end in names else _whole(end) for end in ends]
            in_range = all(least <= number <= most for number in numbers) or span == "*"
            stepped = not slash or (_whole(step) > 0 and (span == "*" or len(ends) == 2))
            if not in_range or not stepped or len(ends) > 2 or numbers != sorted(numbers):
                yield f"{where}: expected a {field} of {least} to {most}, * or a list of these, was {shown(text)}."
                break


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 5 else -1
