"""A connection to MySQL or MariaDB with every wait bounded, and its errors as sentences."""

import os
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pymysql
from pymysql.constants import CR, ER

from restart_guard import clock
from restart_guard.config.options import MySql
from restart_guard.dial import dial
from restart_guard.durations import span
from restart_guard.errors import DeliveryError, SecretError
from restart_guard.threads import within

# https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html; these need a person.
DENIED = {
    ER.DBACCESS_DENIED_ERROR,
    ER.ACCESS_DENIED_ERROR,
    ER.TABLEACCESS_DENIED_ERROR,
    ER.COLUMNACCESS_DENIED_ERROR,
    ER.SPECIFIC_ACCESS_DENIED_ERROR,
    1698,
    1141,
}
_SCHEMA = {ER.BAD_DB_ERROR, ER.NO_SUCH_TABLE, ER.BAD_FIELD_ERROR, ER.PARSE_ERROR, ER.NO_DEFAULT_FOR_FIELD}
_DATA = {
    ER.DATA_TOO_LONG,
    ER.TRUNCATED_WRONG_VALUE_FOR_FIELD,
    ER.WARN_DATA_TRUNCATED,
    ER.WARN_DATA_OUT_OF_RANGE,
    ER.BAD_NULL_ERROR,
    ER.DUP_ENTRY,
    4025,
    3819,
}
# What is wrong with the account, and what to do; MySQL's numbers, and MariaDB's where they differ.
_EXPIRED = ": the account's password has expired: give it a new one (ALTER USER … IDENTIFIED BY …)."
_LOCKED = ": the account is locked: ALTER USER … ACCOUNT UNLOCK."
_ACCOUNT: dict[int, str] = {
    **dict.fromkeys((1820, 1862), _EXPIRED),
    **dict.fromkeys((3118, 4151), _LOCKED),
    3955: ": too many failed logins have blocked the account: ALTER USER … ACCOUNT UNLOCK.",
    3159: ": the server takes TLS only: set [mysql] tls to required or verify.",
}
_TLS = {CR.CR_SSL_CONNECTION_ERROR, CR.CR_AUTH_PLUGIN_ERR}
# A server's or an account's own defaults would cut what is read here, without an error.
_SESSION = "SET SESSION sql_select_limit = 18446744073709551615, group_concat_max_len = 4294967295"
_LARGEST_PACKET = 256 << 20
_CHAINED = 0xFFFFFF  # a part of this size is followed by another one
_ADVICE: dict[int, str] = {
    ER.BAD_DB_ERROR: ": create the database, or fix [mysql] database.",
    **_ACCOUNT,
    CR.CR_SSL_CONNECTION_ERROR: ": check [mysql] tls and ca_file.",
}
# The driver's exceptions if the server does not speak MySQL's protocol.
_GARBAGE = (struct.error, IndexError, ValueError, AssertionError, KeyError, TypeError)


def place(settings: MySql) -> str:
    """The server's address: ``localhost:3306`` or its socket."""
    return str(settings.socket) if settings.socket else f"{settings.host}:{settings.port}"


def connect(
    settings: MySql, what: str, advice: Mapping[int, str], *, read_timeout_s: float | None = None
) -> "pymysql.Connection[Any]":
    """A connection with every wait bounded: connect_timeout alone does not cover the handshake.

    ``what`` is the subject of error sentences; ``read_timeout_s`` is for queries that take longer than an answer may.
    """
    try:
        password = settings.password.reveal().encode() if settings.password else b""
    except SecretError as error:
        raise DeliveryError(str(error), code="secret", permanent=True) from error
    with translate_errors(what, advice):
        connection = _Connection(
            host=settings.host,
            port=settings.port,
            unix_socket=str(settings.socket) if settings.socket else None,
            user=settings.user,
            password=password,
            database=settings.database,
            charset="utf8mb4",
            connect_timeout=settings.timeout,
            read_timeout=float(max(settings.timeout, read_timeout_s or 0)),
            write_timeout=float(settings.timeout),
            init_command=_SESSION,
            defer_connect=True,
            auth_plugin_map={} if _is_safe(settings) else dict.fromkeys(_PLAIN, _Refusal),
            server_public_key=None if _is_safe(settings) or is_here(settings) else _NoKey(),  # type: ignore[arg-type]
            **_tls(settings),
        )
        try:
            # A server may answer byte by byte, also in the TLS handshake, where no time limit of the driver's holds.
            within(3 * settings.timeout, partial(_open, connection, settings))
        except TimeoutError as error:
            connection.give_up()
            text = f"MySQL {what}: it does not finish its greeting within {span(3 * settings.timeout)}"
            raise DeliveryError(text, code="timeout") from error
        return connection


def _open(connection: "_Connection", settings: MySql) -> None:
    if settings.socket is not None:
        connection.connect()
        return
    try:
        connected = dial(settings.host, settings.port, 2 * settings.timeout)
    except OSError as error:
        raise pymysql.err.OperationalError(
            CR.CR_CONN_HOST_ERROR, f"Can't connect to MySQL server on {settings.host!r} ({error})"
        ) from error
    connection.connect(connected)


class _Connection(pymysql.Connection):
    """A connection that reads no packet without end, and none that takes longer than the time for an answer."""

    _chained = 0
    # Private parts of PyMySQL's; tests/mysql/test_rows.py sees that they are there.
    _read_timeout: float
    _rfile: Any
    _force_close: Callable[[], None]

    def give_up(self) -> None:
        self._force_close()

    def _read_bytes(self, num_bytes: int) -> bytes:
        if num_bytes != 4:  # the head of a part
            self._chained = self._chained + num_bytes if num_bytes == _CHAINED else 0
        if self._chained > _LARGEST_PACKET:
            self._force_close()
            raise pymysql.err.OperationalError(
                CR.CR_NET_PACKET_TOO_LARGE, f"an answer of more than {_LARGEST_PACKET >> 20} MiB"
            )
        deadline = clock.monotonic() + self._read_timeout
        parts: list[bytes] = []
        left = num_bytes
        try:
            while left and (part := self._rfile.read1(left)):
                parts.append(part)
                left -= len(part)
                if left and clock.monotonic() > deadline:
                    raise TimeoutError("timed out")
        except OSError as error:
            self._force_close()
            raise pymysql.err.OperationalError(CR.CR_SERVER_LOST, f"the connection was lost ({error})") from error
        if left:
            self._force_close()
            raise pymysql.err.OperationalError(CR.CR_SERVER_LOST, "the connection was lost")
        return b"".join(parts)


def is_here(settings: MySql) -> bool:
    """Whether the server is reached by a socket or through loopback."""
    return settings.socket is not None or settings.host in ("localhost", "127.0.0.1", "::1")


def _is_safe(settings: MySql) -> bool:
    """Whether nobody but the right server can be at the other end."""
    is_checked = settings.tls in ("verify", "verify-ca") or (settings.tls == "required" and settings.ca_file)
    return bool(is_checked) or settings.socket is not None


# Authentication plugins that get the password itself.
_PLAIN = ("mysql_clear_password", "dialog")
_REFUSED = (
    "the server asks for the password itself, and anybody could be at the other end: it was not sent. "
    "Set [mysql] tls = verify, or use a socket"
)


class _Refusal:
    """Stands in for an authentication plugin that must not be used."""

    def __init__(self, connection: object) -> None:
        """The driver makes one for each connection."""

    def authenticate(self, _packet: object) -> None:
        raise pymysql.err.OperationalError(CR.CR_AUTH_PLUGIN_ERR, _REFUSED)


class _NoKey:
    """Stands in for the server's RSA key. Without TLS the driver would take whatever key the other end sends, and
    encrypt the password with that; it asks for one if this is false, so that question is the moment to refuse."""

    def __bool__(self) -> bool:
        raise pymysql.err.OperationalError(CR.CR_AUTH_PLUGIN_ERR, _REFUSED)


def _tls(settings: MySql) -> Mapping[str, Any]:
    if settings.tls == "off" or settings.socket:
        return {"ssl_disabled": True}
    if settings.tls == "preferred":
        return {}
    for path in (settings.ca_file, settings.client_cert, settings.client_key):
        if path is not None and not os.access(path, os.R_OK):
            raise DeliveryError(f"[mysql] {path} cannot be read; TLS needs it.", code="tls", permanent=True)
    context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    if settings.tls == "verify-ca" or (settings.tls == "required" and settings.ca_file):
        context.check_hostname = False
    elif settings.tls == "required":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if settings.client_cert:
        context.load_cert_chain(settings.client_cert, settings.client_key)
    return {"ssl": context}


@contextmanager
def translate_errors(what: str, advice: Mapping[int, str]) -> Iterator[None]:
    """Turns the driver's errors into ours, once: which are worth another try, and which need a person.

    ``advice`` by error number takes precedence over the general advice.
    """
    try:
        yield
    except pymysql.err.MySQLError as error:
        # For an untrusted certificate PyMySQL gives 2003, as if the server were down.
        if isinstance(getattr(error, "original_exception", None), ssl.SSLError):
            text = f"MySQL {what}: {error.args[1]}{_ADVICE[CR.CR_SSL_CONNECTION_ERROR]}"
            raise DeliveryError(text, code="tls", permanent=True) from error
        number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        text = str(error.args[1]) if len(error.args) > 1 else str(error)
        raise DeliveryError(
            f"MySQL {what}: {text or 'the connection was lost'} ({number}){(_ADVICE | dict(advice)).get(number, '')}",
            code=str(number),
            permanent=number in DENIED | _SCHEMA | _DATA | _TLS | _ACCOUNT.keys(),
            whole_destination=number not in _DATA,
        ) from error
    except (RuntimeError, ssl.SSLError, FileNotFoundError) as error:  # RuntimeError: cryptography is missing
        raise DeliveryError(f"MySQL {what}: {error}", code="tls", permanent=True) from error
    except OSError as error:
        raise DeliveryError(f"MySQL {what}: {error}", code="network") from error
    except _GARBAGE as error:
        raise DeliveryError(f"MySQL {what} answers in another protocol: {error!r}", code="protocol") from error
