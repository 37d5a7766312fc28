"""What the channels share: the message, and a request by HTTP whose errors name the host and never the URL."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from restart_guard.config.rules import is_private
from restart_guard.config.secrets import Secret
from restart_guard.errors import DeliveryError, SecretError


class Message(NamedTuple):
    """What is to reach a person. ``mention``: somebody must look now. ``incident`` is the number in the text, empty if
    it is about none; ``recovered``: it has ended. ``event`` is the object of ``history --json``."""

    text: str
    mention: bool
    incident: str = ""
    recovered: bool = False
    event: Mapping[str, Any] = {}

    @property
    def subject(self) -> str:
        """Its first line."""
        return self.text.partition("\n")[0]


class Reply(NamedTuple):
    """``data`` is the body if that is a JSON object, else empty."""

    status: int
    body: str
    data: Mapping[str, Any]


class Far(NamedTuple):
    """The far end: its name in errors, and how it is reached."""

    name: str
    proxy: Secret | None = None
    ca_file: Path | None = None


def post(far: Far, url: str, body: object, headers: Mapping[str, str] | None = None) -> Reply:
    """Post JSON. Raises DeliveryError if no answer comes; what the answer means is the channel's to say."""
    # The options of each kind are read in every tick, which must not pay for an HTTP client.
    from restart_guard.alerts import http

    host = http.host_of(url) or "its address"
    who = f"{far.name} at {host}"
    if not url.startswith(("https://", "http://")) or not is_private(url):
        raise DeliveryError(f"{who}: expected an https:// address.", code="url", permanent=True)
    if far.ca_file is not None and not os.access(far.ca_file, os.R_OK):
        raise DeliveryError(f"{far.name}: {far.ca_file} cannot be read.", code="tls", permanent=True)
    proxy = reveal(far.proxy) if far.proxy is not None else None
    request = http.Request("POST", url, msgspec.json.encode(body), "application/json; charset=utf-8", headers or {})
    try:
        status, content = http.ask(request, proxy=proxy, ca_file=far.ca_file)
    except http.HttpError as error:
        text = f"{who} could not be reached: {error}."
        raise DeliveryError(text, code=error.code, permanent=error.permanent) from error
    try:
        data = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        data = None
    return Reply(status, content.decode(errors="replace")[:300].strip(), data if isinstance(data, dict) else {})


def refused(
    who: str, said: object, *, code: object, permanent: bool, advice: str = "", later_s: float = 0.0
) -> DeliveryError:
    """The far end does not take it; ``later_s``: it asked for so much silence."""
    text = f"{who} refuses the message ({code}: {str(said)[:300]})" + (f": {advice}." if advice else ".")
    return DeliveryError(text, code=str(code), permanent=permanent, not_before_s=later_s)


def by_status(who: str, reply: Reply, advice: str) -> DeliveryError:
    """For a far end that says by its HTTP status what is wrong: 4xx is ours to mend, but for 408 and 429."""
    is_ours = 400 <= reply.status < 500 and reply.status not in (408, 429)
    moved = "redirects are not followed" if 300 <= reply.status < 400 else advice
    return refused(
        who,
        reply.body or "no text",
        code=f"HTTP {reply.status}",
        permanent=is_ours or 300 <= reply.status < 400,
        advice=moved if is_ours or 300 <= reply.status < 400 else "",
        later_s=60.0 if reply.status == 429 else 0.0,
    )


def signature(key: str, text: str) -> str:
    """HMAC-SHA256 in base64."""
    # As above: a tick signs nothing.
    from base64 import b64encode
    from hmac import digest

    return b64encode(digest(key.encode(), text.encode(), "sha256")).decode()


def reveal(secret: Secret) -> str:
    """Raises DeliveryError."""
    try:
        return secret.reveal().strip()
    except SecretError as error:
        raise DeliveryError(str(error), code="secret", permanent=True) from error
