"""One health check of a running program: over HTTP or TCP, by a command, or by its heartbeat in Redis."""

import http.client
import socket
import ssl
import zlib
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from restart_guard import clock
from restart_guard.config.options import Health
from restart_guard.config.values import parse_place
from restart_guard.durations import span
from restart_guard.errors import GuardError
from restart_guard.host import hook
from restart_guard.host.identity import Identity
from restart_guard.programs.health import ProbeResult
from restart_guard.programs.target import Target, hook_of
from restart_guard.threads import within

_CHANNEL = "channel:"
_GRACE_S = 1.0  # time for the check to report its own timeout, or to kill its command


def probe(target: Target, process: Identity, beat: str) -> ProbeResult:
    """Check once, for no longer than the health's timeout; ``beat`` is the heartbeat's value of the last check."""
    health = target.settings.health
    assert health is not None  # noqa: S101 (only asked of targets that have one)
    try:
        # A server that sends a byte now and then keeps every single read within its timeout: the whole is limited here.
        return within(health.timeout + _GRACE_S, partial(_look, target, health, process, beat))
    except TimeoutError:
        return _no_answer(health)


def _look(target: Target, health: Health, process: Identity, beat: str) -> ProbeResult:
    try:
        if health.http is not None:
            return _http(health.http, health.timeout)
        if health.tcp is not None:
            with socket.create_connection(parse_place(health.tcp), health.timeout):
                return ProbeResult(ok=True)
        if health.command is not None:
            ran = hook.run(hook_of(target, health.command, process, health.timeout))
            return ProbeResult(ok=ran.ok, why=f"command: {ran}")
        return _heartbeat(target, str(health.redis_heartbeat), health.timeout, beat)
    except TimeoutError:
        return _no_answer(health)
    except (OSError, http.client.HTTPException) as error:
        return ProbeResult(ok=False, why=str(getattr(error, "strerror", None) or error or type(error).__name__))
    except GuardError as error:
        return ProbeResult(ok=None, why=str(error))


def _no_answer(health: Health) -> ProbeResult:
    return ProbeResult(ok=False, why=f"no answer within {span(health.timeout)}")


def _http(url: str, timeout_s: float) -> ProbeResult:
    """A GET; any answer below 400 is good."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        # Only the answer counts here, not the certificate that a program on loopback shows.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "restart-guard", "Connection": "close"})
        status = connection.getresponse().status
    finally:
        connection.close()
    return ProbeResult(ok=status < 400, why=f"HTTP status {status}")


def _heartbeat(target: Target, name: str, timeout_s: float, beat: str) -> ProbeResult:
    """A key that exists and expires by itself, a key whose value changes between probes, or a channel with a message
    within the timeout. If Redis is down, that says nothing about the program."""
    # A target whose health asks no Redis must not pay for its driver.
    from restart_guard.redis_server.client import connected

    with connected(target.redis, whole_s=timeout_s + 2 * target.redis.timeout) as client:
        if name.startswith(_CHANNEL):
            return _listen(client, name.removeprefix(_CHANNEL), timeout_s)
        value, ttl = client.dump(name), client.pttl(name)
    if value is None:
        return ProbeResult(ok=False, why=f"the heartbeat {name} is missing")
    now = f"{zlib.crc32(value):08x}"
    if ttl >= 0 or now != beat:
        return ProbeResult(ok=True, beat=now)
    return ProbeResult(ok=False, why=f"the heartbeat {name} has not changed", beat=now)


def _listen(client: Any, channel: str, timeout_s: float) -> ProbeResult:
    deadline = clock.monotonic() + timeout_s
    with client.pubsub() as pubsub:
        pubsub.subscribe(channel)
        while clock.monotonic() < deadline:
            message = pubsub.get_message(timeout=max(0.0, deadline - clock.monotonic()))
            if message is not None and message["type"] == "message":
                return ProbeResult(ok=True)
    return ProbeResult(ok=False, why=f"no message on {channel} within {span(timeout_s)}")
