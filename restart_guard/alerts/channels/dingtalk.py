"""DingTalk (钉钉): a custom robot of a group.

Sources: open.dingtalk.com/document/orgapp/custom-robots-send-group-messages and …/customize-robot-security-settings.
HTTP 200 alone means nothing; ``errcode`` does.
"""

from pathlib import Path
from urllib.parse import quote

from msgspec import Struct

from restart_guard import clock
from restart_guard.alerts.channels.post import Far, Message, post, refused, reveal
from restart_guard.alerts.channels.post import signature as signature_of
from restart_guard.config.options import Text, Texts
from restart_guard.config.secrets import Secret

_NAME = "DingTalk"
_BLOCK_S = 600.0  # over 20 messages a minute
_TOO_MANY = {130101, 410100}
_PERMANENT = {
    310000: "keyword, signature or address is not as the robot's security settings ask",
    300001: "check the access token in webhook",
    400013: "the group was dissolved",
    400101: "check the access token in webhook",
    400102: "the robot is disabled",
}


class Options(Struct, frozen=True, kw_only=True):
    """``webhook`` is the whole URL or only its access token; ``sign`` the robot's secret that begins with SEC."""

    webhook: Secret
    sign: Secret | None = None
    mentioned_mobiles: Texts = ()
    api_base: Text = "https://oapi.dingtalk.com"
    proxy: Secret | None = None
    ca_file: Path | None = None


def signature(secret: str, at_ms: int) -> str:
    return signature_of(secret, f"{at_ms}\n{secret}")


def send(options: Options, message: Message) -> None:
    """Raises DeliveryError. The signature is of the moment of sending: it is good for an hour."""
    url = reveal(options.webhook)
    if "://" not in url:
        token = quote(url.rpartition("access_token=")[2], safe="")
        url = f"{options.api_base.rstrip('/')}/robot/send?access_token={token}"
    if options.sign is not None:
        at_ms = round(clock.now().timestamp() * 1000)
        url += f"&timestamp={at_ms}&sign={quote(signature(reveal(options.sign), at_ms), safe='')}"
    mobiles = list(options.mentioned_mobiles) if message.mention else []
    # Who is mentioned is notified only if the text says the number too.
    text = message.text + "".join(f"\n@{mobile}" for mobile in mobiles)
    body = {"msgtype": "text", "text": {"content": text}, "at": {"atMobiles": mobiles, "isAtAll": False}}
    reply = post(Far(_NAME, options.proxy, options.ca_file), url, body)
    code = reply.data.get("errcode")
    if code == 0:
        return
    if code is None:
        raise refused(_NAME, reply.body or "no errcode", code=f"HTTP {reply.status}", permanent=False)
    later_s = _BLOCK_S if code in _TOO_MANY else 0.0
    advice = _PERMANENT.get(code, "")
    raise refused(
        _NAME, reply.data.get("errmsg", ""), code=code, permanent=code in _PERMANENT, advice=advice, later_s=later_s
    )
