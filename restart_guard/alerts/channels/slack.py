"""Slack: an incoming webhook (api.slack.com/messaging/webhooks)."""

from pathlib import Path

from msgspec import Struct

from restart_guard.alerts.channels.post import Far, Message, by_status, post, reveal
from restart_guard.config.options import Texts
from restart_guard.config.secrets import Secret

_NAME = "Slack"


class Options(Struct, frozen=True, kw_only=True):
    """``mentioned_users`` are member ids such as U012AB3CD, or ``channel`` and ``here``."""

    webhook: Secret
    mentioned_users: Texts = ()
    proxy: Secret | None = None
    ca_file: Path | None = None


def send(options: Options, message: Message) -> None:
    """Raises DeliveryError."""
    text = message.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    users = options.mentioned_users if message.mention else ()
    text += "".join(f"\n<!{user}>" if user in ("channel", "here") else f"\n<@{user}>" for user in users)
    reply = post(Far(_NAME, options.proxy, options.ca_file), reveal(options.webhook), {"text": text})
    if reply.status != 200 or reply.body != "ok":
        raise by_status(_NAME, reply, "check webhook")
