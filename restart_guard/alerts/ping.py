"""A dead man's switch: pings to a monitor elsewhere, which alerts a person when pings stop.

The protocol is that of Healthchecks (healthchecks.io/docs/http_api): URL/start, URL for success, URL/fail, URL/N for an
exit status, ``?rid=`` to tell runs apart, a POST whose body is shown. A monitor that knows only the plain URL alerts
when pings stop.
"""

import os
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from restart_guard.alerts import http
from restart_guard.config.options import Ping
from restart_guard.config.rules import PING_IS_OPEN, is_private
from restart_guard.errors import DeliveryError, SecretError
from restart_guard.ids import new_run_id
from restart_guard.threads import Background

SUCCESS, START, FAIL = "", "start", "fail"
TICK = "tick"
_LONGEST_BODY = 10_000
_PATIENCE_S = 2.0


def job_name(kind: str, name: str) -> str:
    """The job's name for ``{job}`` in the URL; targets belong to the tick."""
    return TICK if kind == "target" else f"{kind}-{name}"


def payload(job: str, signal: str, *, rid: str, text: str = "") -> dict[str, str]:
    """A ping as the journal keeps it; ``signal`` is SUCCESS, START, FAIL or an exit status."""
    return {"job": job, "signal": signal, "rid": rid, "text": text}


def address(url: str, job: str, signal: str, rid: str) -> str:
    """The URL to request: ``{job}`` and ``{host}`` filled in, the signal after its path, the rid added to its query."""
    named = url.strip().replace("{job}", quote(job, safe="")).replace("{host}", quote(os.uname().nodename, safe=""))
    parts = urlsplit(named)
    path = parts.path.rstrip("/") + (f"/{signal}" if signal else "")
    query = "&".join(filter(None, [parts.query, f"rid={rid}" if rid else ""]))
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def send(settings: Ping, item: dict[str, Any]) -> str | None:
    """Send a ping. Returns None or a note; raises DeliveryError if the monitor did not take it."""
    try:
        url = address(settings.url.reveal(), item["job"], item["signal"], item["rid"])
    except SecretError as error:
        raise DeliveryError(str(error), code="secret", permanent=True) from error
    except ValueError as error:
        raise DeliveryError("ping.url: the address cannot be read.", code="url", permanent=True) from error
    if not url.startswith(("http://", "https://")) or not http.host_of(url):
        raise DeliveryError("ping.url: expected an address that begins with https://.", code="url", permanent=True)
    if not is_private(url):
        raise DeliveryError(PING_IS_OPEN, code="url", permanent=True)
    who = f"The monitor at {http.host_of(url)}"
    body = item["text"].encode()[:_LONGEST_BODY]
    try:
        status, _ = http.ask(http.Request("POST", url, body, "text/plain; charset=utf-8"))
    except http.HttpError as error:
        raise DeliveryError(f"{who} was not reached: {error}.", code=error.code, permanent=error.permanent) from error
    if status < 300:
        return None
    if item["signal"] and status in (404, 405):
        return f"{who} does not know /{item['signal']} (HTTP {status}): it alerts when pings stop."
    permanent = 300 <= status < 500 and status not in (408, 425, 429)
    raise DeliveryError(f"{who} answers HTTP {status}: check [ping] url.", code=f"http {status}", permanent=permanent)


class Start:
    """The start of a job, sent in the background; a monitor that hangs delays the job by two seconds at most."""

    def __init__(self, settings: Ping, job: str, rid: str | None = None) -> None:
        self.rid = rid or new_run_id()
        self._sending = Background(partial(send, settings, payload(job, START, rid=self.rid)))

    def wait(self) -> str | None:
        """Wait until it has arrived: a start after the end of its job would look like a job that never ends.

        Why it has not arrived, or None. A late start would be of no use, so it is not sent again.
        """
        try:
            self._sending.result(_PATIENCE_S)
        except TimeoutError:
            return "The monitor has not answered yet."
        except DeliveryError as error:
            return str(error)
        return None
