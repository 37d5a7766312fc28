"""Feishu (飞书), and Lark by ``api_base``: a custom bot of a group, version 2.

Source: open.feishu.cn/document/client-docs/bot-v3/add-custom-bot. HTTP 200 alone means nothing; ``code`` does. The
signature has key and message the other way round than others: the key is the text, the message is empty.
"""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from restart_guard import clock
from restart_guard.alerts.channels.post import Far, Message, post, refused, reveal
from restart_guard.alerts.channels.post import signature as signature_of
from restart_guard.config.options import Text, Texts
from restart_guard.config.secrets import Secret

_NAME = "Feishu"
_TOO_MANY = {11232, 9499}
_PERMANENT = {
    19001: "check the token in webhook",
    19002: "the body is not as the bot wants it",
    19021: "check sign, and this host's clock",
    19022: "this host's address is not in the bot's list",
    19024: "the text lacks the keyword of the bot's security settings",
}


class Options(Struct, frozen=True, kw_only=True):
    """``webhook`` is the whole URL or only its last part; ``mentioned_users`` are open ids, or ``all``."""

    webhook: Secret
    sign: Secret | None = None
    mentioned_users: Texts = ()
    api_base: Text = "https://open.feishu.cn"
    proxy: Secret | None = None
    ca_file: Path | None = None


def signature(secret: str, at_s: int) -> str:
    return signature_of(f"{at_s}\n{secret}", "")


def send(options: Options, message: Message) -> None:
    """Raises DeliveryError."""
    url = reveal(options.webhook)
    if "://" not in url:
        url = f"{options.api_base.rstrip('/')}/open-apis/bot/v2/hook/{quote(url, safe='')}"
    users = options.mentioned_users if message.mention else ()
    text = message.text + "".join(f'\n<at user_id="{user}"></at>' for user in users)
    body: dict[str, Any] = {"msg_type": "text", "content": {"text": text}}
    if options.sign is not None:
        at_s = round(clock.now().timestamp())
        body |= {"timestamp": str(at_s), "sign": signature(reveal(options.sign), at_s)}
    reply = post(Far(_NAME, options.proxy, options.ca_file), url, body)
    code = reply.data.get("code", reply.data.get("StatusCode"))
    if code == 0:
        return
    if code is None:
        raise refused(_NAME, reply.body or "no code", code=f"HTTP {reply.status}", permanent=False)
    advice = _PERMANENT.get(code, "")
    later_s = 60.0 if code in _TOO_MANY else 0.0
    said = reply.data.get("msg", "")
    raise refused(_NAME, said, code=code, permanent=code in _PERMANENT, advice=advice, later_s=later_s)
