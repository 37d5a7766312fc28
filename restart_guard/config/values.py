"""The values that config options are made of: percentages, paths, addresses. Each says what it expects in
``wanted``."""

import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

_PERCENT = re.compile(r"\d{1,3}(?:\.\d{1,3})?%", re.ASCII)


class Percent(float):
    """A share from 0 to 1, written as ``50%``."""

    wanted = 'a percentage such as "50%"'

    @classmethod
    def parse(cls, text: object) -> "Percent":
        """Raises ValueError when the text is no percentage up to 100%."""
        if not isinstance(text, str) or not _PERCENT.fullmatch(text) or float(text[:-1]) > 100:
            raise ValueError(text)
        return cls(float(text[:-1]) / 100)


DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Characters that change the direction of text, so that it reads as something else (Unicode UAX 9, UTR 36)."""


def printable(text: str) -> str:
    r"""Text that UTF-8 can hold: a byte of a file name that is not UTF-8 is shown as ``\udcNN``."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable_all(value: Any, change: Callable[[str], str] = printable) -> Any:
    """A JSON-like value with each text in it changed, except keys."""
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
    except RuntimeError as error:  # ~unknown-user
        raise ValueError(value) from error
    return Path(os.path.normpath(base / path))


class RedisAddress(NamedTuple):
    """The parts of a Redis URL."""

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
    variables = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip().removeprefix("export ").strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, separator, value = stripped.partition("=")
        if not separator or not name.isidentifier() or "\0" in value:
            raise ValueError(f"line {number}: expected NAME=value")
        try:
            variables[name] = " ".join(shlex.split(value, comments=True))
        except ValueError as error:
            raise ValueError(f"line {number}: a quotation mark is not closed") from error
    return variables
