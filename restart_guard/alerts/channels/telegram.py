"""Telegram: a bot's message to a chat (core.telegram.org/bots/api#sendmessage)."""

from pathlib import Path

from msgspec import Struct

from restart_guard.alerts.channels.post import Far, Message, post, refused, reveal
from restart_guard.config.options import Text
from restart_guard.config.secrets import Secret

_NAME = "Telegram"
_PERMANENT = {400: "check chat", 401: "check token", 403: "the bot may not write to this chat", 404: "check token"}


class Options(Struct, frozen=True, kw_only=True):
    """``chat`` is a chat's number or an @channel."""

    token: Secret
    chat: Text
    api_base: Text = "https://api.telegram.org"
    proxy: Secret | None = None
    ca_file: Path | None = None


def send(options: Options, message: Message) -> None:
    """Raises DeliveryError. Without a mention it makes no sound."""
    url = f"{options.api_base.rstrip('/')}/bot{reveal(options.token)}/sendMessage"
    body = {"chat_id": options.chat, "text": message.text[:4096], "disable_notification": not message.mention}
    reply = post(Far(_NAME, options.proxy, options.ca_file), url, body)
    if reply.data.get("ok") is True:
        return
    code = reply.data.get("error_code", reply.status)
    parameters = reply.data.get("parameters")
    later = parameters.get("retry_after") if isinstance(parameters, dict) else None
    raise refused(
        _NAME,
        reply.data.get("description", reply.body),
        code=code,
        permanent=code in _PERMANENT,
        advice=_PERMANENT.get(code, ""),
        later_s=float(later) if isinstance(later, int) else 0.0,
    )
