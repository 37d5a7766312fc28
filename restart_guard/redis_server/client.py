"""Connects to Redis, and turns its errors into ours.

The driver's own retries are off everywhere (``redis.Redis()`` would make ten): the check is the one place that tries
again. RESP2 is spoken, since a server or proxy without HELLO refuses RESP3 and nothing here needs it. ``connected``
opens a connection of its own, so that after a failover the next one asks the Sentinels again; ``KeptClient`` keeps its
connections and asks them all the same.
"""

import errno
import math
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import redis
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, DefaultParser
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from restart_guard import clock
from restart_guard.config.options import Redis
from restart_guard.config.secrets import Secret
from restart_guard.config.values import RedisAddress, parse_place, parse_redis_url
from restart_guard.dial import dial
from restart_guard.errors import Remedy, SecretError, StoreError

# The first word of a server's error → what may help. Sources: the error table in redis.io/docs and src/server.c.
REMEDIES = {
    "LOADING": Remedy.WAIT,
    "READONLY": Remedy.WAIT,
    "MASTERDOWN": Remedy.WAIT,
    "CLUSTERDOWN": Remedy.WAIT,
    "TRYAGAIN": Remedy.WAIT,
    "NOREPLICAS": Remedy.WAIT,
    "BUSY": Remedy.WAIT,
    "NOAUTH": Remedy.PERSON,
    "WRONGPASS": Remedy.PERSON,
    "NOPERM": Remedy.PERSON,
    "MISCONF": Remedy.PERSON,
    "OOM": Remedy.PERSON,
    "ERR": Remedy.PERSON,
    "DENIED": Remedy.PERSON,
}
_LARGEST_ANSWER = 300 << 20
_LONGEST_LINE = 1 << 20  # the parser looks through the whole line at each part of it
_WHOLE_S = 10.0
_CLUSTER_WORDS = {"MOVED", "ASK", "CROSSSLOT"}


def database_of(settings: Redis) -> int:
    """The number of the database. Raises StoreError."""
    return _address(settings).database


def name(settings: Redis) -> str:
    """The server for messages, without secrets: ``redis localhost:6379/0``."""
    if settings.sentinels:
        return f"redis {settings.service}/{settings.database or 0} (Sentinel)"
    try:
        address = _address(settings)
    except StoreError:
        return "redis"
    where = address.socket or f"{address.host}:{address.port}"
    return f"redis {where}/{address.database}"


@contextmanager
def connected(settings: Redis, *, whole_s: float | None = None) -> Iterator[redis.Redis]:
    """A client of the server, or of the service's current master. Driver errors are raised as StoreError.

    The whole may take ``whole_s``; without it, for a few small questions, twice the time for an answer and ten seconds.
    """
    with _translate_errors():
        client = _client(settings)
        try:
            with _cut_after(client, 2 * settings.timeout + _WHOLE_S if whole_s is None else whole_s):
                yield client
        finally:
            client.close()


class KeptClient:
    """A client that keeps its connection from use to use. With Sentinels each use asks them for the master, on a kept
    connection too: whoever only keeps the master's goes on writing to a demoted one for seconds."""

    def __init__(self, settings: Redis) -> None:
        self._settings = settings
        self._sentinel: Sentinel | None = None
        self._client: redis.Redis | None = None
        self._address: RedisAddress | None = None

    @property
    def is_open(self) -> bool:
        return self._client is not None

    @contextmanager
    def use(self, whole_s: float) -> Iterator[redis.Redis]:
        """Any error closes the connection, and the next use opens another. Driver errors are raised as StoreError."""
        with _translate_errors():
            try:
                address = _address(self._settings)
                if self._settings.sentinels:
                    self._sentinel = self._sentinel or _sentinel(self._settings, address)
                    address = _of_master(address, self._sentinel, self._settings)
                if self._client is None or address != self._address:
                    self.close()
                    self._client, self._address = _client_of(self._settings, address), address
                with _cut_after(self._client, whole_s):
                    yield self._client
            except BaseException:
                self.close()
                if self._sentinel is not None:  # another is asked first: this one may hang, or be cut off
                    self._sentinel.sentinels.append(self._sentinel.sentinels.pop(0))
                raise

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None


@contextmanager
def _cut_after(client: redis.Redis, seconds: float) -> Iterator[None]:
    """Close the connection after a time: a server that sends a byte now and then keeps every single wait short."""
    if math.isinf(seconds):
        yield
        return
    timer = threading.Timer(seconds, client.connection_pool.disconnect)
    timer.daemon = True
    with suppress(RuntimeError):  # no more threads are allowed: rather without
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def answers(settings: Redis) -> bool:
    """Whether the server answers a PING."""
    try:
        with connected(settings) as client:
            return bool(client.ping())
    except StoreError:
        return False


def has_lost_master(client: redis.Redis) -> bool:
    """Whether the server is a replica that has never got its master's data, or gets no more of it. Where INFO is
    refused nobody knows, and it counts as none."""
    try:
        replication = client.info("replication")
    except redis.RedisError:
        return False
    return replication.get("role") == "slave" and replication.get("master_link_status") != "up"


def wait_until_ready(settings: Redis, seconds: float, *, synced: bool = False) -> bool:
    """Wait while the server is loading or failing over, with ``synced`` also while it is a replica without its master.
    False if it still is after the given time."""
    deadline = clock.monotonic() + seconds
    while True:
        try:
            with connected(settings) as client:
                client.ping()
                if not (synced and has_lost_master(client)):
                    return True
        except StoreError as error:
            if error.remedy is not Remedy.WAIT:
                return True
        if clock.monotonic() >= deadline:
            return False
        clock.sleep(0.5)


class ServerInfo(NamedTuple):
    """The server's own figures. ``clock_ahead_s`` is its clock minus ours; the rest is from INFO."""

    version: str
    role: str
    link: str
    evicted: int
    policy: str
    clock_ahead_s: float


def server_info(settings: Redis) -> ServerInfo:
    """Ask a server for its own figures. Raises StoreError."""
    with connected(settings) as client:
        client.ping()
        seconds, micros = client.time()
        ahead = seconds + micros / 1e6 - clock.now().timestamp()
        info = client.info()
        return ServerInfo(
            version=str(info.get("redis_version", "?")),
            role=str(info.get("role", "?")),
            link=str(info.get("master_link_status", "")),
            evicted=int(info.get("evicted_keys", 0)),
            policy=str(info.get("maxmemory_policy", "")),
            clock_ahead_s=ahead,
        )


def ttl_left(settings: Redis, key: str) -> float | None:
    """Seconds until a key expires; None when it is missing or never expires. Raises StoreError."""
    with connected(settings) as client:
        left = client.pttl(key.encode("utf-8", "surrogateescape"))
    return left / 1000 if isinstance(left, int) and left >= 0 else None


def _client(settings: Redis) -> redis.Redis:
    address = _address(settings)
    if settings.sentinels:
        address = _of_master(address, _sentinel(settings, address), settings)
    return _client_of(settings, address)


def _client_of(settings: Redis, address: RedisAddress) -> redis.Redis:
    where: dict[str, Any] = {"host": address.host, "port": address.port, **_tls(settings, address)}
    if address.socket:
        where = {"unix_socket_path": address.socket}
    login: dict[str, Any] = {"username": address.username, "password": address.password}
    return _bound(redis.Redis(**where, **_common(settings), **login, db=address.database))


def _sentinel(settings: Redis, address: RedisAddress) -> Sentinel:
    places = [parse_place(place) for place in settings.sentinels or ()]
    login = {"username": settings.sentinel_username, "password": _reveal(settings.sentinel_password)}
    sentinel = Sentinel(places, sentinel_kwargs={**_common(settings), **login, **_tls(settings, address)})
    for one in sentinel.sentinels:
        _bound(one)
    return sentinel


def _of_master(address: RedisAddress, sentinel: Sentinel, settings: Redis) -> RedisAddress:
    host, port = _master(sentinel, settings.service or "")
    return address._replace(host=host, port=port)


def _common(settings: Redis) -> dict[str, Any]:
    return {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": float(settings.timeout),
        "socket_connect_timeout": float(settings.timeout),
    }


def _bound(client: redis.Redis) -> redis.Redis:
    pool = client.connection_pool
    pool.connection_class = _CONNECTIONS[pool.connection_class]
    pool.connection_kwargs["parser_class"] = _Parser
    # CLIENT SETINFO makes proxies such as twemproxy close the connection. The names are those of redis-py 6 to 8.
    pool.connection_kwargs |= dict.fromkeys(
        {"driver_info", "lib_name", "lib_version"} & pool.connection_kwargs.keys(), None
    )
    return client


class _Greeting(AbstractConnection):
    """Asks one question at once. redis-py takes a new connection that has something to read for a broken one and throws
    it away, but a TLS 1.3 server sends session tickets unasked, and one that is full says so; both stand before the
    answer."""

    def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 (the driver's)
        super().on_connect_check_health(check_health)
        with suppress(redis.ResponseError):  # a user who may not even ask that
            self.send_command("PING", check_health=False)  # type: ignore[no-untyped-call]
            self.read_response()


class _Connection(_Greeting, redis.Connection):
    def _connect(self) -> socket.socket:
        connection = dial(self.host, self.port, float(self.socket_connect_timeout or 0))
        connection.settimeout(self.socket_timeout)
        return connection


class _TlsConnection(redis.SSLConnection, _Connection):
    """Wraps what ``_Connection`` connects."""


class _SocketConnection(_Greeting, redis.UnixDomainSocketConnection):
    """By a unix socket."""


_CONNECTIONS = {
    redis.Connection: _Connection,
    redis.SSLConnection: _TlsConnection,
    redis.UnixDomainSocketConnection: _SocketConnection,
}


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]
    """Reads no answer without end: the largest value that is asked for is smaller (see checks/read.py)."""

    _sock: Any
    _reader: Any

    def on_connect(self, connection: Any, **options: Any) -> None:
        super().on_connect(connection, **options)
        self._sock = _Counted(self._sock)

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        if self._sock is not None:
            self._sock.count = 0
        return super().read_response(*arguments, **options)

    def read_many(self, count: int) -> list[Any]:
        """So many answers in a row, errors among them."""
        answers: list[Any] = []
        while len(answers) < count:
            answer = self._reader.gets()
            if answer is NOT_ENOUGH_DATA:
                self.read_from_socket()
            elif isinstance(answer, redis.ConnectionError):
                raise answer
            else:
                self._sock.count = 0
                answers.append(answer)
        return answers


def read_answers(connection: Any, count: int) -> list[Any]:
    """The answers to so many commands that were sent together, errors among them. Driver errors are raised, and then
    the connection can only be closed.

    The driver's own way, one by one, takes 5 µs for each: as much as all else that is done for a row.
    """
    try:
        return list(connection._parser.read_many(count))  # noqa: SLF001 (it is our own)
    except OSError as error:
        raise redis.ConnectionError(f"Error while reading: {error}") from error


class _Counted:
    """A socket that counts what is read from it, and reads no more than an answer may have."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._is_line = False
        self.count = 0

    def recv_into(self, buffer: bytearray) -> int:
        read: int = self._sock.recv_into(buffer)
        if self.count == 0:
            self._is_line = bytes(buffer[:1]) in (b"+", b"-", b":")
        self.count += read
        if self._is_line and self.count > _LONGEST_LINE:
            raise redis.exceptions.InvalidResponse(f"a line of more than {_LONGEST_LINE >> 10} KiB")
        if self.count > _LARGEST_ANSWER:
            raise redis.exceptions.InvalidResponse(f"an answer of more than {_LARGEST_ANSWER >> 20} MiB")
        return read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def _master(sentinel: Sentinel, service: str) -> tuple[str, int]:
    """The service's master. The driver reports every reason as "no master", but only one is worth waiting for."""
    try:
        host, port = sentinel.discover_master(service)
    except MasterNotFoundError:
        errors = []
        for client in sentinel.sentinels:
            try:
                if service in client.sentinel_masters():
                    raise
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if isinstance(error, MasterNotFoundError):
                    raise
                errors.append(error)
        refused = [error for error in errors if isinstance(error, redis.AuthenticationError)]
        if refused:
            text = "a Sentinel refuses the password: check [redis] sentinel_username and sentinel_password"
            raise StoreError(text, code="sentinel", remedy=Remedy.PERSON) from refused[0]
        if len(errors) == len(sentinel.sentinels):
            raise StoreError("no Sentinel answers", code="sentinel", remedy=Remedy.RETRY) from errors[0]
        text = f"the Sentinels know no service {service}: check [redis] service"
        raise StoreError(text, code="sentinel", remedy=Remedy.PERSON) from None
    return str(host), int(port)


def _address(settings: Redis) -> RedisAddress:
    try:
        address = parse_redis_url(_reveal(settings.url) or "redis://localhost:6379/0")
    except ValueError as error:
        raise StoreError(f"redis.url: {error}", code="secret", remedy=Remedy.PERSON) from error
    return address._replace(
        database=address.database if settings.database is None else settings.database,
        username=settings.username or address.username,
        password=_reveal(settings.password) or address.password,
        tls=settings.tls or address.tls,
    )


def _reveal(secret: Secret | None) -> str | None:
    try:
        return None if secret is None else str(secret.reveal())
    except SecretError as error:
        raise StoreError(str(error), code="secret", remedy=Remedy.PERSON) from error


def _tls(settings: Redis, address: RedisAddress) -> dict[str, Any]:
    if not address.tls:
        return {}
    files = {"ssl_ca_certs": settings.ca_file, "ssl_certfile": settings.client_cert, "ssl_keyfile": settings.client_key}
    for path in files.values():
        if path is not None and not os.access(path, os.R_OK):
            raise StoreError(f"{path} cannot be read", code="tls_file", remedy=Remedy.PERSON)
    return {"ssl": True} | {option: str(path) for option, path in files.items() if path is not None}


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turns the driver's errors into ours, once.

    The order matters: refused passwords, loading and missing masters are all subclasses of ConnectionError there.
    """
    try:
        yield
    except MemoryError as error:
        raise StoreError(
            "this host has too little memory for its answer", code="memory", remedy=Remedy.PERSON
        ) from error
    except redis.AuthenticationError as error:
        word = error_word(error) if error_word(error) in REMEDIES else "WRONGPASS"
        raise StoreError(str(error), code="WRONGPASS" if word == "ERR" else word, remedy=Remedy.PERSON) from error
    except redis.BusyLoadingError as error:
        raise StoreError(str(error), code="LOADING", remedy=Remedy.WAIT) from error
    except MasterNotFoundError as error:
        raise StoreError(str(error), code="no_master", remedy=Remedy.WAIT) from error
    except redis.TimeoutError as error:
        raise StoreError(str(error), code="timeout", remedy=Remedy.RETRY) from error
    except redis.ConnectionError as error:
        if "max number of clients" in str(error):
            raise StoreError(str(error), code="maxclients", remedy=Remedy.RETRY) from error
        code = _transport(error)
        remedy = Remedy.PERSON if code == "tls" else Remedy.RETRY
        raise StoreError(str(error), code=code, remedy=remedy) from error
    except redis.RedisError as error:
        word = error_word(error)
        if word in _CLUSTER_WORDS:
            raise StoreError(str(error), code="cluster", remedy=Remedy.PERSON) from error
        raise StoreError(str(error), code=word, remedy=REMEDIES.get(word, Remedy.RETRY)) from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # an answer of an unexpected shape
        raise StoreError(repr(error)[:300], code="protocol", remedy=Remedy.RETRY) from error
    except OSError as error:  # a certificate file without a certificate
        raise StoreError(str(error), code="tls", remedy=Remedy.PERSON) from error


def error_word(error: redis.RedisError) -> str:
    """The server's own error code; redis-py removes known ones from the text and keeps them separately."""
    text = str(error)
    first = text.split(" ", 1)[0]
    return str(error.status_code or (first if first.isupper() and first.isalpha() else "ERR"))


def _transport(error: BaseException | None) -> str:
    """The reason of a failed connection, from the chain of causes."""
    while error is not None:
        match error:
            case ssl.SSLError():
                return "tls"
            case ConnectionRefusedError() | FileNotFoundError():
                return "refused"
            case socket.gaierror() | PermissionError():
                return "unreachable"
            case OSError() if error.errno is not None:
                return "unreachable" if error.errno not in (errno.EPIPE, errno.ECONNRESET) else "closed"
        error = error.__cause__ or error.__context__
    return "closed"
