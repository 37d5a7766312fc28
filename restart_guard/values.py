"""The values that config options are made of: durations, paths, secrets. Each says what it expects in ``wanted``."""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from restart_guard.errors import SecretError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(?:\d{1,12}(?:\.\d{1,6})?(?:ms|[smhdw]))+", re.ASCII)
_PART = re.compile(r"([\d.]+)(ms|[smhdw])", re.ASCII)
_KEY_LENGTH = 16  # of a word in a path: those of hc-ping.com have 22 and 36 characters
_PERCENT = re.compile(r"\d{1,3}(?:\.\d{1,3})?%", re.ASCII)
_LONGEST_S = 100 * 365 * 86400.0


class Duration(float):
    """A span in seconds, written as ``500ms``, ``30s``, ``5m`` or ``7d1h``."""

    wanted = 'a duration such as "30s" or "7d1h"'

    @classmethod
    def parse(cls, text: object) -> "Duration":
        """Raises ValueError when the text is no duration or longer than a century."""
        if not isinstance(text, str) or not _DURATION.fullmatch(text):
            raise ValueError(text)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        if seconds > _LONGEST_S:
            raise ValueError(text)
        return cls(seconds)


class Percent(float):
    """A share from 0 to 1, written as ``50%``."""

    wanted = 'a percentage such as "50%"'

    @classmethod
    def parse(cls, text: object) -> "Percent":
        """Raises ValueError when the text is no percentage up to 100%."""
        if not isinstance(text, str) or not _PERCENT.fullmatch(text) or float(text[:-1]) > 100:
            raise ValueError(text)
        return cls(float(text[:-1]) / 100)


class Secret:
    """A text that is never shown: given plainly, or as ``{ env = "NAME" }`` or ``{ file = "path" }``.

    Where it comes from is looked up when it is used and not when the config is loaded, so that a command that does
    not need a password runs without it.
    """

    __slots__ = ("_env", "_file", "_key", "_text")
    wanted = 'text, { env = "NAME" } or { file = "path" }'

    def __init__(self, *, key: str, text: str | None = None, env: str | None = None, file: Path | None = None) -> None:
        self._key, self._text, self._env, self._file = key, text, env, file

    @classmethod
    def parse(cls, value: object, *, key: str, base: Path) -> "Secret":
        """``key`` is the dotted key for errors; a relative file starts at ``base``. Raises ValueError."""
        match value:
            case str() if value:
                return cls(key=key, text=value)
            case {"env": str(name), **rest} if not rest and name and "=" not in name and "\0" not in name:
                return cls(key=key, env=name)
            case {"file": str(path), **rest} if not rest:
                return cls(key=key, file=parse_path(path, base))
        raise ValueError

    def __repr__(self) -> str:
        return f"<secret {self._key}>"

    @property
    def is_plain(self) -> bool:
        """The text stands in the config itself and holds something that must not be read by others."""
        return self._text is not None and any(True for _ in sensitive_parts(self._text))

    @property
    def text(self) -> str | None:
        """The text when it stands in the config itself."""
        return self._text

    @property
    def key(self) -> str:
        return self._key

    @property
    def file(self) -> Path | None:
        return self._file

    def reveal(self) -> str:
        """The text. Raises SecretError naming the option and the place where it was looked for."""
        text = self._look_up()
        if printable(text) != text:
            raise SecretError(f"{self._key}: the secret is not UTF-8 text.")
        return text

    def _look_up(self) -> str:
        if self._text is not None:
            return self._text
        if self._file is None:
            text = os.environ.get(self._env or "", "")
            if not text:
                raise SecretError(
                    f"{self._key}: the environment variable {self._env} is not set; set it and try again."
                )
            return text
        try:
            # A final newline is the editor's, not the secret's.
            text = self._file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise SecretError(f"{self._key}: the secret file {self._file} cannot be read: {reason}.") from error
        if not text:
            raise SecretError(f"{self._key}: the secret file {self._file} is empty.")
        return text


def printable(text: str) -> str:
    """Text that UTF-8 can carry: a byte of a file name that is none is shown as ``\\udcNN``."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable_all(value: Any, change: Callable[[str], str] = printable) -> Any:
    """A JSON-like value with each text in it changed, keys apart."""
    match value:
        case str():
            return change(value)
        case Mapping():
            return {printable(str(key)): printable_all(inner, change) for key, inner in value.items()}
        case list() | tuple():
            return [printable_all(inner, change) for inner in value]
    return value


def parse_path(value: object, base: Path) -> Path:
    """A path as an absolute one; a relative path starts at ``base``. Raises ValueError."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(value)
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:  # ~nobody-of-that-name
        raise ValueError(value) from error
    return Path(os.path.normpath(base / path))


def sensitive_parts(secret: str) -> Iterator[str]:
    """What of a secret must not be shown: the whole, or of a URL its password, the values of its query and what in its
    path looks like a key."""
    if "://" not in secret:
        yield secret
        return
    try:
        url = urlsplit(secret)
        password, query = url.password, parse_qsl(url.query)
        segments = url.path.split("/") if url.scheme in ("http", "https") else []
    except ValueError:
        yield secret
        return
    if password:
        yield from {password, unquote(password)}
    yield from (value for _, value in query)
    yield from (part for part in segments if len(part) >= _KEY_LENGTH and any(one.isdigit() for one in part))


class Redactor:
    """Replaces every known secret in a text by ``***``: the last net under all output, journal rows and alerts.

    Secrets shorter than four characters are left alone, since they would garble every sentence.
    """

    def __init__(self, secrets: Iterable[Secret]) -> None:
        self._secrets = tuple(secrets)
        self._pattern: re.Pattern[str] | None = None

    def __call__(self, text: str) -> str:
        if self._pattern is None:
            self._pattern = self._compile()
        return self._pattern.sub("***", text)

    def _compile(self) -> re.Pattern[str]:
        parts: set[str] = set()
        for secret in self._secrets:
            try:
                found = [part for part in sensitive_parts(secret.reveal()) if len(part) >= 4]
            except SecretError:
                continue
            for part in found:
                parts |= {part, quote(part, safe=""), repr(part)[1:-1]}
        longest_first = sorted(parts, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


class RedisAddress(NamedTuple):
    """Where a Redis URL points."""

    host: str
    port: int
    socket: str | None
    database: int
    username: str | None
    password: str | None
    tls: bool


def parse_redis_url(url: str) -> RedisAddress:
    """``redis://`` or ``rediss://[user[:password]@]host[:port][/database]``, ``unix://[user[:password]@]/path[?db=N]``.

    Raises ValueError with a reason that does not show the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError as error:
        raise ValueError("its host or port cannot be read") from error
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("expected it to start with redis://, rediss:// or unix://")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    path = unquote(parts.path)
    database = query.pop("db", "") or ("" if parts.scheme == "unix" else path.strip("/")) or "0"
    if query or parts.fragment:
        raise ValueError("expected no ?option other than db in it (a # in a password is written %23)")
    if not database.isascii() or not database.isdecimal() or len(database) > 5:
        raise ValueError("expected a database number at its end")
    if parts.scheme == "unix" and not path.startswith("/"):
        raise ValueError("expected unix:// and an absolute path")
    return RedisAddress(
        host=parts.hostname or "localhost",
        port=port,
        socket=path if parts.scheme == "unix" else None,
        database=int(database),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=parts.scheme == "rediss",
    )


def parse_place(text: str) -> tuple[str, int]:
    """``host:port``, an IPv6 address in brackets. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port[:9]) < 65536:
        raise ValueError(f'expected "host:port", was {text}')
    return host.strip("[]"), int(port)


def parse_environment(text: str) -> dict[str, str]:
    """The lines ``NAME=value`` of an environment file, quoted and commented as a shell has them, also with ``export``.

    Nothing is expanded. Raises ValueError with the line's number and never its content, which may be a secret.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip().removeprefix("export ").strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, separator, value = stripped.partition("=")
        if not separator or not name.isidentifier() or "\0" in value:
            raise ValueError(f"line {number}: expected NAME=value")
        try:
            found[name] = " ".join(shlex.split(value, comments=True))
        except ValueError as error:
            raise ValueError(f"line {number}: a quotation mark is not closed") from error
    return found
