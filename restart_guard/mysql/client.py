"""A connection to MySQL or MariaDB with every wait bounded, and its errors as sentences."""

import os
import ssl
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pymysql
from pymysql.constants import CR, ER

from restart_guard.config.options import MySql
from restart_guard.errors import DeliveryError, SecretError

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
_TLS = {CR.CR_SSL_CONNECTION_ERROR}
_ADVICE: dict[int, str] = {
    ER.BAD_DB_ERROR: ": create the database, or fix [mysql] database.",
    **dict.fromkeys(_TLS, ": check [mysql] tls and ca_file."),
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
        return pymysql.connect(
            host=settings.host,
            port=settings.port,
            unix_socket=str(settings.socket) if settings.socket else None,
            user=settings.user,
            password=password,
            database=settings.database,
            charset="utf8mb4",
            connect_timeout=max(1, round(settings.timeout)),
            read_timeout=float(max(settings.timeout, read_timeout_s or 0)),
            write_timeout=float(settings.timeout),
            **_tls(settings),
        )


def _tls(settings: MySql) -> Mapping[str, Any]:
    if settings.tls == "off" or settings.socket:
        return {"ssl_disabled": True}
    if settings.tls == "preferred":
        return {}
    for path in (settings.ca_file, settings.client_cert, settings.client_key):
        if path is not None and not os.access(path, os.R_OK):
            raise DeliveryError(f"[mysql] {path} cannot be read; TLS needs it.", code="tls", permanent=True)
    context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    if settings.tls == "required":
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
            permanent=number in DENIED | _SCHEMA | _DATA | _TLS,
            whole_destination=number not in _DATA,
        ) from error
    except (RuntimeError, ssl.SSLError, FileNotFoundError) as error:  # RuntimeError: cryptography is missing
        raise DeliveryError(f"MySQL {what}: {error}", code="tls", permanent=True) from error
    except OSError as error:
        raise DeliveryError(f"MySQL {what}: {error}", code="network") from error
    except _GARBAGE as error:
        raise DeliveryError(f"MySQL {what} answers in another protocol: {error!r}", code="protocol") from error
