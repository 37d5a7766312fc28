"""Texts that are never shown, and the redactor that removes them from all output."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from restart_guard.config.values import parse_path, printable
from restart_guard.errors import SecretError

SECRET_NAME = re.compile(r"PASS(WORD|WD)?(_|$)|SECRET|TOKEN|CREDENTIAL|(^|_)(API_?)?KEY$", re.IGNORECASE)
"""Names of environment variables that hold secrets."""

_KEY_LENGTH = 16  # of a part of a path: keys of hc-ping.com have 22 and 36 characters


class Secret:
    """A text that is never shown: given plainly, or as ``{ env = "NAME" }`` or ``{ file = "path" }``.

    It is looked up when it is used and not when the config is loaded, so that a command that does not need a password
    runs without it.
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
        """Whether the text stands in the config itself and must not be read by others."""
        return self._text is not None and any(True for _ in sensitive_parts(self._text))

    @property
    def text(self) -> str | None:
        """The text, if it stands in the config itself."""
        return self._text

    @property
    def key(self) -> str:
        return self._key

    @property
    def variable(self) -> str | None:
        """The environment variable that holds it."""
        return self._env

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
            text = os.environ.get(self._env or "", "").rstrip("\r\n")
            if not text:
                raise SecretError(
                    f"{self._key}: the environment variable {self._env} is not set; set it and try again."
                )
            return text
        try:
            # A final newline and a byte order mark come from the editor and are not part of the secret.
            text = self._file.read_text(encoding="utf-8").removeprefix("\ufeff").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise SecretError(f"{self._key}: the secret file {self._file} cannot be read: {reason}.") from error
        if not text:
            raise SecretError(f"{self._key}: the secret file {self._file} is empty.")
        return text


def sensitive_parts(secret: str) -> Iterator[str]:
    """The parts of a secret that must not be shown: the whole text, or of a URL its password, the values of its query
    and the parts of its path that look like a key."""
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
    """Replaces every known secret in a text by ``***``: the last protection for all output, journal rows and alerts.

    Secrets shorter than four characters are left alone, since replacing them would garble every sentence.
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
                sensitive = [part for part in sensitive_parts(secret.reveal()) if len(part) >= 4]
            except SecretError:
                continue
            for part in sensitive:
                parts |= {part, quote(part, safe=""), repr(part)[1:-1]}
        longest_first = sorted(parts, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
