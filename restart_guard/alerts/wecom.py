"""WeCom (企业微信): a message to a group robot or, through an app, to persons.

An answer is judged by its ``errcode``; HTTP 200 alone means nothing. Sources: the robot is document 99110 of
developer.work.weixin.qq.com, app messages 90236, the access token 91039, error codes 90455, rates 90454. Keys and
tokens are part of the URL, so the text of an exception is never used: it may contain the URL.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from restart_guard import clock
from restart_guard.alerts import http
from restart_guard.alerts.wording import fit
from restart_guard.config.options import WeCom
from restart_guard.config.rules import http_is_allowed
from restart_guard.config.secrets import Secret
from restart_guard.errors import DeliveryError, SecretError

_MINIMAL_BYTES = 512
RATE_LIMITED = 45009
"""Over 20 messages a minute for a robot; the block lasts as long as the window, a minute (document 90454)."""

_TRANSIENT = {-1, 6000, RATE_LIMITED, 45033}
_TOKEN_REFUSED = {40001, 40014, 42001}
_MALFORMED = {40008, 40033, 40035, 40058, 40063, 44004, 45002}
_RECEIVER = "check [wecom] to_users against the app's visible range; a user id is not the name that is shown"
_ADVICE = {
    40001: "check [wecom] corp_secret",
    40013: "check [wecom] corp_id",
    41002: "check [wecom] corp_id",
    41004: "check [wecom] corp_secret",
    40056: "check [wecom] agent_id: it and corp_secret must be one app's",
    41011: "check [wecom] agent_id",
    301002: "check [wecom] agent_id: it and corp_secret must be one app's",
    40003: _RECEIVER,
    60111: _RECEIVER,
    81013: _RECEIVER,
    82001: _RECEIVER,
    50002: _RECEIVER,
    60011: _RECEIVER,
    40032: "more than 1000 [wecom] to_users",
    48002: "the app may not use this API: see the admin console",
    50003: "the app is disabled: see the admin console",
    60020: "add this host's address (after 'from ip') to the app's trusted IPs (企业可信IP), then: deliver --all",
    93000: "check [wecom] webhook: the key is wrong, or the robot was removed from its group",
    93004: "the robot is disabled: see its group",
    93006: "the robot's group no longer exists",
    93008: "the robot is no longer in the group",
    RATE_LIMITED: "too many messages in a minute; it will be tried again later",
}


class Robot:
    """A group robot's webhook."""

    def __init__(self, settings: WeCom) -> None:
        """Raises DeliveryError if the webhook's secret cannot be read."""
        self._client = _Client(settings)
        secret = settings.webhook
        webhook = _reveal(secret).strip() if secret is not None else ""
        if not webhook.startswith(("https://", "http://")):
            webhook = webhook.rpartition("key=")[2]  # the URL without its https:// is a common mistake
            webhook = f"{settings.api_base.rstrip('/')}/cgi-bin/webhook/send?key={quote(webhook, safe='')}"
        self._url = webhook
        self._users = list(settings.mentioned_users)
        self._mobiles = list(settings.mentioned_mobiles)

    def send(self, text: str, *, mention: bool) -> str | None:
        """Post a text; with mentions, the configured people are notified. Raises DeliveryError."""
        body: dict[str, Any] = {"msgtype": "text", "text": {"content": text}}
        if mention and self._users:
            body["text"]["mentioned_list"] = self._users
        if mention and self._mobiles:
            body["text"]["mentioned_mobile_list"] = self._mobiles
        reply = self._client.post(self._url, body)
        if _wants_less(reply):
            body["text"]["content"] = _minimal(text)
            reply = self._client.post(self._url, body)
        return _judge(reply, "the group robot")


class App:
    """A message to persons through an app of the corporation, with an access token kept in the state directory."""

    def __init__(self, settings: WeCom, state_dir: Path) -> None:
        """Raises DeliveryError if the app's secret cannot be read."""
        self._client = _Client(settings)
        self._base = settings.api_base.rstrip("/")
        self._corp_id = settings.corp_id or ""
        self._secret = _reveal(settings.corp_secret) if settings.corp_secret is not None else ""
        self._agent_id = settings.agent_id
        self._users = "|".join(settings.to_users or ())
        self._cache = _TokenCache(state_dir, self._base, self._corp_id, str(self._agent_id), self._secret)

    def send(self, text: str, *, mention: bool) -> str | None:  # noqa: ARG002 (its receivers are notified anyway)
        """Send a text. Returns a note that names receivers who do not exist; raises DeliveryError.

        The body is the same at each try, so that the server's duplicate check drops a second copy for half an hour.
        """
        body = {
            "touser": self._users,
            "msgtype": "text",
            "agentid": self._agent_id,
            "text": {"content": text},
            "safe": 0,
            "enable_duplicate_check": 1,
            "duplicate_check_interval": 1800,
        }
        reply = self._send(body)
        if _wants_less(reply):
            body["text"] = {"content": _minimal(text)}
            reply = self._send(body)
        note = _judge(reply, "the app")
        invalid = reply.get("invaliduser")
        return f"WeCom does not know the user ids {invalid}; the others got the message." if invalid else note

    def _send(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Post with the cached token; a token that is refused is fetched anew, once."""
        reply = self._client.post(self._message_url(self._cache.load() or self.fetch_token()), body)
        if reply["errcode"] in _TOKEN_REFUSED:
            reply = self._client.post(self._message_url(self.fetch_token()), body)
        return reply

    def _message_url(self, token: str) -> str:
        return f"{self._base}/cgi-bin/message/send?access_token={quote(token, safe='')}"

    def fetch_token(self) -> str:
        """Log in, and keep the token for later runs. Raises DeliveryError."""
        corp_id, secret = quote(self._corp_id, safe=""), quote(self._secret, safe="")
        reply = self._client.get(f"{self._base}/cgi-bin/gettoken?corpid={corp_id}&corpsecret={secret}")
        _judge(reply, "the app's login")
        token, lifetime = reply.get("access_token"), reply.get("expires_in")
        if not isinstance(token, str) or not token or not isinstance(lifetime, int):
            raise _failure("the app's login", "the answer holds no access token", code="reply")
        self._cache.save(token, max(0, min(lifetime, 7200)))
        return token


class _TokenCache:
    """A file of mode 0600. Its key is a digest of the app and its secret, so that a changed config logs in again."""

    def __init__(self, state_dir: Path, *identity: str) -> None:
        self._path = state_dir / "wecom_token.json"
        self._key = hashlib.sha256("\0".join(identity).encode()).hexdigest()

    def load(self) -> str | None:
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            kept = msgspec.json.decode(self._path.read_bytes())
            if kept.get("key") == self._key and clock.now().timestamp() < kept.get("until"):
                return str(kept.get("token"))
        return None

    def save(self, token: str, lifetime_s: int) -> None:
        """Best effort: without a cache each run logs in."""
        until = clock.now().timestamp() + lifetime_s - 300
        new = self._path.with_suffix(f".{os.getpid()}.new")
        with contextlib.suppress(OSError):
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.encode({"key": self._key, "token": token, "until": until}))
            new.replace(self._path)


class _Client:
    """HTTP to WeCom. Its errors name the host and never the URL, which holds the key."""

    def __init__(self, settings: WeCom) -> None:
        self._settings = settings
        self._proxy = _reveal(settings.proxy) if settings.proxy is not None else None
        if settings.ca_file and not os.access(settings.ca_file, os.R_OK):
            raise DeliveryError(f"wecom.ca_file: {settings.ca_file} cannot be read.", code="tls", permanent=True)

    def post(self, url: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._ask("POST", url, msgspec.json.encode(body))

    def get(self, url: str) -> Mapping[str, Any]:
        return self._ask("GET", url, None)

    def _ask(self, method: str, url: str, data: bytes | None) -> Mapping[str, Any]:
        """The reply as an object with an integer ``errcode``. Raises DeliveryError."""
        host = http.host_of(url) or "the webhook's address"
        if not http_is_allowed(url, self._settings):
            why = "plain http needs a loopback address or [wecom] allow_http = true"
            raise _failure(host, why, code="url", permanent=True)
        request = http.Request(method, url, data, "application/json" if data else None)
        try:
            status, body = http.ask(request, proxy=self._proxy, ca_file=self._settings.ca_file)
        except http.HttpError as error:
            why = f"{error}; see [wecom] ca_file" if error.permanent else str(error)
            raise _failure(host, why, code=error.code, permanent=error.permanent) from error
        return _parse(host, status, body)


def _parse(host: str, status: int, body: bytes) -> Mapping[str, Any]:
    if status != 200:
        moved = "; redirects are not followed, since the key would go with them" if 300 <= status < 400 else ""
        raise _failure(host, f"it answers HTTP {status}{moved}", code=f"http {status}")
    try:
        reply = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _failure(host, "its answer is not JSON (a login page of the network?)", code="reply") from error
    if not isinstance(reply, dict) or type(reply.get("errcode")) is not int:
        raise _failure(host, "its answer has no errcode", code="reply")
    return reply


def _wants_less(reply: Mapping[str, Any]) -> bool:
    """Whether the server rejects the body as too long or malformed."""
    return reply["errcode"] in _MALFORMED or "wrong json format" in str(reply.get("errmsg", ""))


def _minimal(text: str) -> str:
    return fit("", text.partition("\n")[0], "", _MINIMAL_BYTES)


def _judge(reply: Mapping[str, Any], who: str) -> str | None:
    """Returns None or a note if the message was taken; raises DeliveryError if it was not."""
    code, said = reply["errcode"], str(reply.get("errmsg", ""))[:300]
    if code == 0:
        return "WeCom calls the message malformed, but accepted it." if "wrong json format" in said else None
    known = code in _ADVICE or code in _MALFORMED or code in _TOKEN_REFUSED
    advice = _ADVICE.get(code, f"see https://open.work.weixin.qq.com/devtool/query?e={code}")
    raise DeliveryError(
        f"WeCom refuses {who} ({code}: {said}): {advice}.",
        code=str(code),
        permanent=known and code not in _TRANSIENT,
        whole_destination=code not in _MALFORMED,
        not_before_s=60.0 if code == RATE_LIMITED else 0.0,
    )


def _failure(who: str, why: str, *, code: str, permanent: bool = False) -> DeliveryError:
    return DeliveryError(f"WeCom at {who} could not be reached: {why}.", code=code, permanent=permanent)


def _reveal(secret: Secret) -> str:
    try:
        return secret.reveal()
    except SecretError as error:
        raise DeliveryError(str(error), code="secret", permanent=True) from error
