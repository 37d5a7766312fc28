"""The config: TOML to frozen values, every problem told at once with its dotted key.

``load`` reads a file, ``parse`` takes what tomllib made of it. Nothing here opens a connection or builds an object
that does; secrets are looked up when they are used.
"""

import difflib
import ipaddress
import os
import shlex
import signal
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from restart_guard.errors import ConfigError, UsageError
from restart_guard.settings import COLUMNS, NAMED_SECTIONS, SECTIONS, Check, Config, MySql, Redis, Target, WeCom
from restart_guard.values import Duration, Redactor, Secret, parse_path, parse_redis_url

_Section = TypeVar("_Section", bound=Struct)


def find(option: Path | None, environ: Mapping[str, str]) -> Path:
    """The config file to use, in the documented order. Raises ConfigError naming every place that was looked at."""
    named = option or (Path(environ["RESTART_GUARD_CONFIG"]) if environ.get("RESTART_GUARD_CONFIG") else None)
    if named is not None:
        return _absolute(named)
    home = Path(environ.get("XDG_CONFIG_HOME") or _home() / ".config")
    places = [Path("config.toml"), home / "restart-guard/config.toml", Path("/etc/restart-guard/config.toml")]
    for place in places:
        with suppress(OSError):
            if place.is_file():
                return _absolute(place)
    looked = ", ".join(str(place) for place in places)
    raise ConfigError(f"No config was found: looked for {looked}. Name one with -c FILE or RESTART_GUARD_CONFIG.")


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read and check a config file. Raises ConfigError with every problem that was found."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = tomllib.loads(file.read().decode())
    except OSError as error:
        raise ConfigError(f"{path}: the config cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, byte {error.start + 1} is not.") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: the values are nested too deeply.") from error
    except ValueError as error:  # TOMLDecodeError, and int() of far too many digits
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return parse(data, path=path, environ=environ, mode=mode)


def parse(data: Mapping[str, Any], *, path: Path, environ: Mapping[str, str], mode: int = 0o600) -> Config:
    """Check parsed TOML; ``mode`` is the file's, for the warning about secrets that others can read."""
    reader = _Reader(path)
    reader.unknown_keys(data, ["state_dir", *SECTIONS, *NAMED_SECTIONS], where="")
    sections = {name: reader.section(kind, data[name], name) for name, kind in SECTIONS.items() if name in data}
    named = {name: reader.named(kind, data.get(name, {}), name) for name, kind in NAMED_SECTIONS.items()}
    state_dir = reader.value(Path, data["state_dir"], "state_dir") if "state_dir" in data else None
    reader.problems += [f"{path}: {problem}" for problem in cross_checks(sections, named)]
    if reader.problems:
        raise ConfigError(*reader.problems)
    exposed = [secret for secret in reader.secrets if secret.is_plain] if mode & (stat.S_IRGRP | stat.S_IROTH) else []
    return Config(
        path=path,
        state_dir=state_dir or default_state_dir(environ),
        targets=named["targets"],
        redis=sections.get("redis") or Redis(),
        mysql=sections.get("mysql"),
        wecom=sections.get("wecom"),
        checks=named["checks"],
        refreshes=named["refreshes"],
        timer=sections.get("timer"),
        warnings=tuple(
            f"{path} can be read by others and holds {secret!r} in plain text: chmod 600 {path}" for secret in exposed
        ),
        redact=Redactor(reader.secrets),
    )


def default_state_dir(environ: Mapping[str, str]) -> Path:
    if environ.get("XDG_STATE_HOME"):
        return Path(environ["XDG_STATE_HOME"]) / "restart-guard"
    return Path("/var/lib/restart-guard") if os.geteuid() == 0 else _home() / ".local/state/restart-guard"


def _home() -> Path:
    """The user's home; in a container a user may have neither HOME nor an entry in passwd."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def _absolute(path: Path) -> Path:
    try:
        return path.absolute()
    except OSError as error:
        raise ConfigError(f"{path}: the working directory is gone; name the config by its full path.") from error


def picked(known: Mapping[str, Any], names: Sequence[str], *, what: str, path: Path) -> list[str]:
    """The names that were asked for, once each, or all. Raises UsageError for one that the config does not have."""
    for name in names:
        if name not in known:
            raise UsageError(f"There is no {what} {name} in {path}{suggestion(name, list(known))}.")
    return list(dict.fromkeys(names) if names else known)


def suggestion(word: str, known: Iterator[str] | list[str]) -> str:
    """`` (did you mean …?)`` when a known word is near, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


class _Reader:
    """Turns tables into sections one field at a time, so that each problem is told with its own key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self.secrets: list[Secret] = []

    def problem(self, where: str, text: str) -> None:
        self.problems.append(f"{self.path}: {where}: {text}")

    def unknown_keys(self, table: Mapping[str, Any], known: list[str], where: str) -> None:
        for key in table:
            if key not in known:
                self.problem(f"{where}{_key(key)}", f"there is no such option{suggestion(key, known)}.")

    def named(self, kind: type[_Section], table: object, where: str) -> Mapping[str, Any]:
        if not isinstance(table, dict):
            self.problem(where, f"expected tables such as [{where}.NAME], was {_shown(table)}.")
            return {}
        for name in table:
            if not name or not name.isprintable() or name.startswith("-") or "/" in name:
                self.problem(
                    f"{where}.{_key(name)}", "expected a name of printable characters without / or a leading -."
                )
        return MappingProxyType({name: self.section(kind, row, f"{where}.{_key(name)}") for name, row in table.items()})

    def section(self, kind: type[_Section], table: object, where: str) -> Any:
        if not isinstance(table, dict):
            self.problem(where, f"expected a table [{where}], was {_shown(table)}.")
            return None
        fields = msgspec.structs.fields(kind)
        before = len(self.problems)
        self.unknown_keys(table, [field.name for field in fields], f"{where}.")
        values = {}
        for field in fields:
            if field.name in table:
                values[field.name] = self.value(field.type, table[field.name], f"{where}.{field.name}")
            elif field.required:
                self.problem(f"{where}.{field.name}", f"expected {_wanted(field.type)}, but it is missing.")
        return kind(**values) if len(self.problems) == before else None

    def value(self, kind: Any, value: object, where: str) -> Any:
        def decode(wanted: type, raw: object) -> object:
            if wanted is Secret:
                self.secrets.append(Secret.parse(raw, key=where, base=self.path.parent))
                return self.secrets[-1]
            return Duration.parse(raw) if wanted is Duration else parse_path(raw, self.path.parent)

        try:
            converted = msgspec.convert(value, kind, dec_hook=decode)
        except (msgspec.ValidationError, RecursionError):
            secret = Secret in (kind, *get_args(kind))
            shown = "something else" if secret else _shown(value)
            self.problem(where, f"expected {_wanted(kind)}, was {shown}.")
            return None
        return MappingProxyType(converted) if isinstance(converted, dict) else converted


def _key(key: str) -> str:
    """A key as TOML writes it: bare where it may be."""
    bare = key and all(character.isalnum() or character in "-_" for character in key)
    return key if bare else _quoted(key)


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _shown(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _quoted(value if len(value) <= 60 else value[:57] + "…")
        case dict():
            return "a table"
        case list():
            return "an empty list" if not value else "a list"
        case int() if abs(value) >= 10**18:
            return "a huge number"
    return str(value)


_WORDS: dict[Any, str] = {bool: "true or false", str: "text", Path: "a path"}


def _wanted(kind: Any) -> str:
    """What an option expects, in words, from its annotation."""
    origin = get_origin(kind)
    if origin is Annotated:
        return next(meta.description for meta in get_args(kind) if isinstance(meta, Meta) and meta.description)
    if origin is Literal:
        return "one of " + ", ".join(_quoted(word) for word in get_args(kind))
    if origin in (Union, UnionType):
        return next(_wanted(part) for part in get_args(kind) if part is not NoneType)
    return str(getattr(kind, "wanted", _WORDS.get(kind)))


def cross_checks(sections: Mapping[str, Any], named: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong between options that are each right: dotted key, what was expected, what was there.

    A section that could not be read is None, and was told of already.
    """
    yield from _redis_problems(sections.get("redis") or Redis())
    if sections.get("mysql"):
        yield from _mysql_problems(sections["mysql"])
    if sections.get("wecom"):
        yield from _wecom_problems(sections["wecom"])
    for name, target in named["targets"].items():
        if target is None:
            continue
        yield from _target_problems(f"targets.{_key(name)}", target)
    for name, check in named["checks"].items():
        if check is None:
            continue
        yield from _check_problems(f"checks.{_key(name)}", check, named)


def _target_problems(where: str, target: Target) -> Iterator[str]:
    for option in ("stop_signal", "reload_signal"):
        word = getattr(target, option)
        if word.removeprefix("SIG") not in {known.name.removeprefix("SIG") for known in signal.Signals}:
            yield f"{where}.{option}: expected a signal's name such as TERM, was {_shown(word)}."
    try:
        words = shlex.split(target.command)
    except ValueError as error:
        yield f"{where}.command: the command cannot be split into words: {error}."
    else:
        if not words:
            yield f"{where}.command: expected a command, was {_shown(target.command)}."


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
        host, _, port = place.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            yield f'redis.sentinels: expected "host:port" in each, was {_shown(place)}.'


def _timeout_problems(where: str, timeout: Duration) -> Iterator[str]:
    if not 0.01 <= timeout <= 3600:
        yield f"{where}: expected a time from 10ms to 1h."


def _mysql_problems(mysql: MySql) -> Iterator[str]:
    yield from _timeout_problems("mysql.timeout", mysql.timeout)
    for option, known in (("columns", list(COLUMNS)), ("status_values", ["success", "failure"])):
        for word in getattr(mysql, option):
            if word not in known:
                yield f"mysql.{option}.{_key(word)}: there is no such option{suggestion(word, known)}."
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
        yield f"wecom.api_base: expected an https:// address, was {_shown(wecom.api_base)}."
    elif not http_is_allowed(wecom.api_base, wecom):
        yield "wecom.api_base: expected https://; plain http needs a loopback address or allow_http = true."


def http_is_allowed(url: str, wecom: WeCom) -> bool:
    """Plain http would show the key on the wire: it is taken for a loopback address, elsewhere when asked for."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    return url.startswith("https://") or wecom.allow_http or loopback


def _check_problems(where: str, check: Check, named: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if not check.keys and not check.patterns:
        yield f"{where}.keys: expected keys, patterns or both; neither is there."
    if check.min_keys is not None and not check.patterns:
        yield f"{where}.min_keys: expected patterns beside it, since single keys must all exist anyway."
    if check.format == "json" and check.type not in ("any", "string"):
        yield f'{where}.format: expected type = "string" beside "json", was {_shown(check.type)}.'
    for low, high in (("min_size", "max_size"), ("min_ttl", "max_ttl")):
        least, most = getattr(check, low), getattr(check, high)
        if least is not None and most is not None and least > most:
            yield f"{where}.{high}: expected at least {low}, was less."
    if check.max_age is not None and check.full_ttl is None:
        yield f'{where}.full_ttl: expected the TTL that the data gets when loaded, such as "7d1h": max_age needs it.'
    yield from _recover_problems(f"{where}.recover", check.recover, named)


def _recover_problems(where: str, recover: str, named: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    kind, _, what = recover.partition(":")
    sections = {"restart": "targets", "refresh": "refreshes"}
    if kind in sections and what:
        known = named[sections[kind]]
        if what not in known:
            yield f"{where}: there is no [{sections[kind]}.{_key(what)}]{suggestion(what, list(known))}."
    elif kind == "command" and what.strip():
        try:
            shlex.split(what)
        except ValueError as error:
            yield f"{where}: the command cannot be split into words: {error}."
    elif recover != "none":
        yield f'{where}: expected "restart:TARGET", "refresh:NAME", "command:…" or "none", was {_shown(recover)}.'
