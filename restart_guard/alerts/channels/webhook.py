"""A webhook of one's own: our JSON by POST."""

from pathlib import Path

from msgspec import Struct

from restart_guard.alerts.channels.post import Far, Message, by_status, post, reveal
from restart_guard.config.secrets import Secret

_NAME = "The webhook"


class Options(Struct, frozen=True, kw_only=True):
    """``token`` is sent as a bearer token (RFC 6750)."""

    url: Secret
    token: Secret | None = None
    proxy: Secret | None = None
    ca_file: Path | None = None


def send(options: Options, message: Message) -> None:
    """Raises DeliveryError. Any status of 2xx is good."""
    headers = {} if options.token is None else {"Authorization": f"Bearer {reveal(options.token)}"}
    about = {"incident": message.incident or None, "recovered": message.recovered, "mention": message.mention}
    body = {"text": message.text, **about, "event": message.event}
    reply = post(Far(_NAME, options.proxy, options.ca_file), reveal(options.url), body, headers)
    if not 200 <= reply.status < 300:
        raise by_status(_NAME, reply, "check url and token")
