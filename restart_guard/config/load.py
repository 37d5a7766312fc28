"""Reads the config: TOML to frozen values, every problem reported at once with its dotted key.

``load`` reads a file, ``parse`` takes the parsed TOML. Nothing here opens a connection or builds an object that does;
secrets are looked up when they are used.
"""

import os
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from restart_guard import paths
from restart_guard.config.options import NAMED_SECTIONS, SECTIONS, Alert, AlertOptions, Config, Redis
from restart_guard.config.rules import cross_checks
from restart_guard.config.secrets import SECRET_NAME, Redactor, Secret
from restart_guard.config.values import Percent, parse_path
from restart_guard.config.wording import key, quoted, shown, suggestion
from restart_guard.durations import Duration
from restart_guard.errors import ConfigError, UsageError
from restart_guard.sizes import Size

_Section = TypeVar("_Section", bound=Struct)


Channels = Callable[[], Mapping[str, type[Struct]]]
"""Gives the options of each kind of [alerts.NAME]; called only for a config that has any."""
_DESTINATIONS = ("mysql", "ping", "wecom", "wecom_app")


def find(option: Path | None, environ: Mapping[str, str]) -> Path:
    """The config file to use, in the documented order. Raises ConfigError that names every place where it looked."""
    named = option or (Path(environ["RESTART_GUARD_CONFIG"]) if environ.get("RESTART_GUARD_CONFIG") else None)
    if named is not None:
        return _absolute(named, environ)
    home = Path(environ.get("XDG_CONFIG_HOME") or paths.home() / ".config")
    places = [Path("config.toml"), home / "restart-guard/config.toml", Path("/etc/restart-guard/config.toml")]
    for place in places:
        if paths.is_file(place):
            return _absolute(place, environ)
    looked = ", ".join(str(place) for place in places)
    raise ConfigError(f"No config was found: looked for {looked}. Name one with -c FILE or RESTART_GUARD_CONFIG.")


def load(path: Path, environ: Mapping[str, str], channels: Channels = dict) -> Config:
    """Read and check a config file. ``channels`` gives the options of each kind of [alerts.NAME]. Raises ConfigError
    with every problem."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = tomllib.loads(file.read().decode().removeprefix("\ufeff"))  # some editors put that there
    except OSError as error:
        raise ConfigError(f"{path}: the config cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, byte {error.start + 1} is not.") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: the values are nested too deeply.") from error
    except ValueError as error:  # TOMLDecodeError, and int() of far too many digits
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return parse(data, path=path, environ=environ, mode=mode, channels=channels)


def parse(
    data: Mapping[str, Any],
    *,
    path: Path,
    environ: Mapping[str, str],
    mode: int = 0o600,
    channels: Channels = dict,
) -> Config:
    """Check parsed TOML; ``mode`` is the file's, for the warning about secrets that others can read."""
    reader = _Reader(path)
    reader.unknown_keys(data, ["state_dir", *SECTIONS, *NAMED_SECTIONS, "alerts"], where="")
    sections = {name: reader.section(kind, data[name], name) for name, kind in SECTIONS.items() if name in data}
    named = {name: reader.named(kind, data.get(name, {}), name) for name, kind in NAMED_SECTIONS.items()}
    alerts = reader.alerts(data["alerts"], channels()) if "alerts" in data else {}
    ways = [*alerts, *(("wecom", "wecom_app") if "wecom" in data else ())]
    for name, alert in alerts.items():
        other = alert.common.fallback_for
        if other is not None and (other not in ways or other == name):
            where = f"alerts.{key(name)}.fallback_for"
            reader.problem(
                where, f"expected another way, one of {', '.join(sorted({*ways} - {name}))}, was {shown(other)}."
            )
    state_dir = reader.value(Path, data["state_dir"], "state_dir") if "state_dir" in data else None
    reader.problems += [f"{path}: {problem}" for problem in cross_checks(sections, named)]
    if reader.problems:
        raise ConfigError(*reader.problems)
    exposed: list[str] = []
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        exposed = [repr(secret) for secret in reader.secrets if secret.is_plain]
        exposed += [
            f"targets.{key(name)}.environment.{key(variable)}"
            for name, target in named["targets"].items()
            for variable in target.environment
            if SECRET_NAME.search(variable)
        ]
    return Config(
        path=path,
        state_dir=state_dir or default_state_dir(environ),
        targets=named["targets"],
        redis=sections.get("redis") or Redis(),
        mysql=sections.get("mysql"),
        wecom=sections.get("wecom"),
        ping=sections.get("ping"),
        page=sections.get("page"),
        metrics=sections.get("metrics"),
        alerts=alerts,
        checks=named["checks"],
        refreshes=named["refreshes"],
        timer=sections.get("timer"),
        standby=sections.get("standby"),
        warnings=tuple(
            f"{path} can be read by others and holds {what} in plain text: chmod 600 {path}" for what in exposed
        ),
        redact=Redactor(reader.secrets),
        secret_variables=frozenset(secret.variable for secret in reader.secrets if secret.variable is not None),
    )


def default_state_dir(environ: Mapping[str, str]) -> Path:
    if environ.get("XDG_STATE_HOME"):
        return Path(environ["XDG_STATE_HOME"]) / "restart-guard"
    return Path("/var/lib/restart-guard") if os.geteuid() == 0 else paths.home() / ".local/state/restart-guard"


def _absolute(path: Path, environ: Mapping[str, str]) -> Path:
    """By the working directory's name that the shell knows, which may be a link: a deployment swaps it."""
    here = environ.get("PWD", "")
    with suppress(OSError):
        if here.startswith("/") and Path(here).samefile(os.curdir):
            return Path(here) / path
    try:
        return path.absolute()
    except OSError as error:
        raise ConfigError(f"{path}: the working directory is gone; name the config by its full path.") from error


def picked(known: Mapping[str, Any], names: Sequence[str], *, what: str, path: Path) -> list[str]:
    """The requested names, once each, or all. Raises UsageError for a name that the config does not have."""
    for name in names:
        if name not in known:
            raise UsageError(f"There is no {what} {name} in {path}{suggestion(name, list(known))}.")
    return list(dict.fromkeys(names) if names else known)


class _Reader:
    """Turns tables into sections one field at a time, so that each problem has its own key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self.secrets: list[Secret] = []

    def problem(self, where: str, text: str) -> None:
        self.problems.append(f"{self.path}: {where}: {text}")

    def unknown_keys(self, table: Mapping[str, Any], known: list[str], where: str) -> None:
        for name in table:
            if name not in known:
                self.problem(f"{where}{key(name)}", f"there is no such option{suggestion(name, known)}.")

    def named(self, kind: type[_Section], table: object, where: str) -> Mapping[str, Any]:
        if not isinstance(table, dict):
            self.problem(where, f"expected tables such as [{where}.NAME], was {shown(table)}.")
            return {}
        for name in table:
            if not name or not name.isprintable() or name.startswith("-") or "/" in name:
                self.problem(
                    f"{where}.{key(name)}", "expected a name of printable characters without / or a leading -."
                )
        return MappingProxyType({name: self.section(kind, row, f"{where}.{key(name)}") for name, row in table.items()})

    def alerts(self, table: object, kinds: Mapping[str, type[Struct]]) -> Mapping[str, Alert]:
        """Each has the options of all, and those of its kind."""
        if not isinstance(table, dict):
            self.problem("alerts", f"expected tables such as [alerts.NAME], was {shown(table)}.")
            return {}
        found = {}
        common_names = [field.name for field in msgspec.structs.fields(AlertOptions)]
        for name, row in table.items():
            where = f"alerts.{key(name)}"
            if not name.isprintable() or not name or "/" in name or name in _DESTINATIONS:
                self.problem(where, f"expected a name of printable characters other than {', '.join(_DESTINATIONS)}.")
            if not isinstance(row, dict):
                self.problem(where, f"expected a table [{where}], was {shown(row)}.")
                continue
            of_kind = {option: value for option, value in row.items() if option not in common_names}
            common = self.section(AlertOptions, {one: row[one] for one in row if one in common_names}, where)
            if common is None:
                continue
            if common.kind not in kinds:
                self.problem(f"{where}.kind", f"expected one of {', '.join(kinds)}, was {shown(common.kind)}.")
                continue
            options = self.section(kinds[common.kind], of_kind, where)
            if options is not None:
                found[name] = Alert(common, options)
        return MappingProxyType(found)

    def section(self, kind: type[_Section], table: object, where: str) -> Any:
        if not isinstance(table, dict):
            self.problem(where, f"expected a table [{where}], was {shown(table)}.")
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
        nested = [part for part in (kind, *get_args(kind)) if isinstance(part, type) and issubclass(part, Struct)]
        if nested:
            return self.section(nested[0], value, where)

        def decode(wanted: type, raw: object) -> object:
            if wanted is Secret:
                self.secrets.append(Secret.parse(raw, key=where, base=self.path.parent))
                return self.secrets[-1]
            if wanted in (Duration, Percent, Size):
                return wanted.parse(raw)
            return parse_path(raw, self.path.parent)

        try:
            converted = msgspec.convert(value, kind, dec_hook=decode)
        except (msgspec.ValidationError, RecursionError):
            secret = Secret in (kind, *get_args(kind))
            texts = value.items() if isinstance(value, dict) and not secret else ()
            bad = {name: one for name, one in texts if not isinstance(one, str)}
            for name, one in bad.items():
                self.problem(f"{where}.{key(name)}", f"expected text, was {shown(one)}.")
            if bad:
                return None
            given = ("empty" if value == "" else "something else") if secret else shown(value)
            self.problem(where, f"expected {_wanted(kind)}, was {given}.")
            return None
        return MappingProxyType(converted) if isinstance(converted, dict) else converted


_WORDS: dict[Any, str] = {bool: "true or false", str: "text", Path: "a path"}


def _wanted(kind: Any) -> str:
    """A description of the expected value, from the option's annotation."""
    origin = get_origin(kind)
    if origin is Annotated:
        return next(meta.description for meta in get_args(kind) if isinstance(meta, Meta) and meta.description)
    if origin is Literal:
        return "one of " + ", ".join(quoted(word) for word in get_args(kind))
    if origin in (Union, UnionType):
        return next(_wanted(part) for part in get_args(kind) if part is not NoneType)
    return str(getattr(kind, "wanted", _WORDS.get(kind)))
