"""ntfy: a message to a topic, of ntfy.sh or a server of one's own (docs.ntfy.sh/publish)."""

from pathlib import Path

from msgspec import Struct

from restart_guard.alerts.channels.post import Far, Message, by_status, post, reveal
from restart_guard.config.options import Text
from restart_guard.config.secrets import Secret

_NAME = "ntfy"
_HIGH, _DEFAULT = 5, 3


class Options(Struct, frozen=True, kw_only=True):
    topic: Secret
    token: Secret | None = None
    server: Text = "https://ntfy.sh"
    proxy: Secret | None = None
    ca_file: Path | None = None


def send(options: Options, message: Message) -> None:
    """Raises DeliveryError."""
    headers = {} if options.token is None else {"Authorization": f"Bearer {reveal(options.token)}"}
    body = {
        "topic": reveal(options.topic),
        "title": message.subject,
        "message": message.text,
        "priority": _HIGH if message.mention else _DEFAULT,
    }
    reply = post(Far(_NAME, options.proxy, options.ca_file), options.server, body, headers)
    if reply.status != 200 or "id" not in reply.data:
        raise by_status(_NAME, reply, "check topic, token and server")
