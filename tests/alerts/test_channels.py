"""Each kind of channel against a far end that plays its documented answers, refusals with HTTP 200 among them.

Sources of the answers: the documents named in restart_guard/alerts/channels.
"""

import base64
import hashlib
import hmac
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from restart_guard.alerts.channels import dingtalk, feishu, registry
from restart_guard.alerts.channels.post import Message
from restart_guard.config import load
from restart_guard.config.options import Alert, Config
from restart_guard.errors import ConfigError, DeliveryError
from tests.conftest import Guard
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import wait_until
from tests.support.services import PROGRAMS

pytestmark = pytest.mark.process

SECRET = "SECtoken-0001"
TEXT = "【报警】数据检查失败 <b> & | 主机\n第二行"


class Far:
    """An HTTP server that gives one answer to everything and keeps what it got."""

    def __init__(self) -> None:
        self.status, self.answer = 200, b"{}"
        self.paths: list[str] = []
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        far = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                far.paths.append(self.path)
                far.headers.append(dict(self.headers))
                far.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(far.status)
                self.send_header("Content-Length", str(len(far.answer)))
                self.end_headers()
                self.wfile.write(far.answer)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def far() -> Iterator[Far]:
    one = Far()
    yield one
    one.server.shutdown()
    one.server.server_close()


class Case(NamedTuple):
    """A kind, its options (``BASE`` is the far end), the answer that is good, and what an answer means."""

    kind: str
    options: str
    good: tuple[int, str]
    bad: list[tuple[int, str, bool, float]]  # status, body, permanent, seconds of silence


CASES = [
    Case(
        "dingtalk",
        f'webhook = "{SECRET}"\nsign = "SECsign"\napi_base = "BASE"\nmentioned_mobiles = ["13800001111"]',
        (200, '{"errcode":0,"errmsg":"ok"}'),
        [
            (200, '{"errcode":310000,"errmsg":"sign not match"}', True, 0),
            (200, '{"errcode":300001,"errmsg":"token is not exist"}', True, 0),
            (200, '{"errcode":130101,"errmsg":"send too fast"}', False, 600),
            (200, '{"errcode":-1,"errmsg":"system busy"}', False, 0),
            (200, "<html>log in</html>", False, 0),
            (502, "bad gateway", False, 0),
        ],
    ),
    Case(
        "feishu",
        f'webhook = "{SECRET}"\nsign = "s"\napi_base = "BASE"\nmentioned_users = ["all"]',
        (200, '{"code":0,"msg":"success","data":{}}'),
        [
            (200, '{"code":19021,"msg":"sign match fail or timestamp is not within one hour"}', True, 0),
            (200, '{"code":19001,"msg":"param invalid: incoming webhook access token invalid"}', True, 0),
            (200, '{"code":11232,"msg":"frequency limited"}', False, 60),
            (200, "[]", False, 0),
        ],
    ),
    Case(
        "slack",
        f'webhook = "BASE/services/{SECRET}"\nmentioned_users = ["U1", "channel"]',
        (200, "ok"),
        [
            (403, "invalid_token", True, 0),
            (404, "no_service", True, 0),
            (410, "channel_is_archived", True, 0),
            (429, "rate_limited", False, 60),
            (500, "rollup_error", False, 0),
            (200, "no_text", False, 0),
        ],
    ),
    Case(
        "telegram",
        f'token = "{SECRET}"\nchat = "-100"\napi_base = "BASE"',
        (200, '{"ok":true,"result":{}}'),
        [
            (401, '{"ok":false,"error_code":401,"description":"Unauthorized"}', True, 0),
            (400, '{"ok":false,"error_code":400,"description":"Bad Request: chat not found"}', True, 0),
            (429, '{"ok":false,"error_code":429,"parameters":{"retry_after":33}}', False, 33),
            (502, "", False, 0),
        ],
    ),
    Case(
        "ntfy",
        f'topic = "alerts"\ntoken = "{SECRET}"\nserver = "BASE"',
        (200, '{"id":"x","event":"message"}'),
        [
            (403, '{"code":40301,"error":"forbidden"}', True, 0),
            (429, '{"code":42901}', False, 60),
            (200, "<html>portal</html>", False, 0),
        ],
    ),
    Case(
        "pagerduty",
        f'routing_key = "{SECRET}"\napi_base = "BASE"',
        (202, '{"status":"success","dedup_key":"x"}'),
        [
            (400, '{"status":"invalid event"}', True, 0),
            (429, "", False, 60),
            (200, '{"status":"success"}', False, 0),
        ],
    ),
    Case(
        "webhook",
        f'url = "BASE/hook"\ntoken = "{SECRET}"',
        (204, ""),
        [(401, "who?", True, 0), (503, "later", False, 0), (302, "", True, 0)],
    ),
]
named = pytest.mark.parametrize("case", CASES, ids=[case.kind for case in CASES])


def alert_of(folder: Path, kind: str, options: str) -> Alert:
    (folder / "config.toml").write_text(f'[alerts.other]\nkind = "{kind}"\n{options}\n')
    return load.load(folder / "config.toml", {}, registry.options).alerts["other"]


def send(alert: Alert, **more: Any) -> None:
    registry.kinds()[alert.common.kind].send(alert.options, Message(TEXT, **({"mention": True} | more)))


@named
def test_answers(tmp_path: Path, far: Far, case: Case) -> None:
    """What is good is good; every refusal is told with its reason and without the secret, and is judged."""
    alert = alert_of(tmp_path, case.kind, case.options.replace("BASE", far.base))
    far.status, far.answer = case.good[0], case.good[1].encode()
    send(alert)
    assert TEXT.partition("\n")[0].split()[0] in json.dumps(far.bodies, ensure_ascii=False)
    for status, body, permanent, silence_s in case.bad:
        far.status, far.answer = status, body.encode()
        with pytest.raises(DeliveryError) as caught:
            send(alert)
        found = caught.value
        assert (found.permanent, found.not_before_s) == (permanent, silence_s), (body, str(found))
        assert SECRET not in str(found)
    far.server.server_close()
    far.server.shutdown()
    with pytest.raises(DeliveryError) as caught:
        send(alert)
    assert not caught.value.permanent
    assert SECRET not in str(caught.value)


def test_signatures() -> None:
    """By hand from the documents: DingTalk signs "ts\\nsecret" with the secret, Feishu nothing with "ts\\nsecret"."""
    by_hand = base64.b64encode(hmac.new(b"SEC1", b"1577262236757\nSEC1", hashlib.sha256).digest()).decode()
    assert dingtalk.signature("SEC1", 1577262236757) == by_hand
    by_hand = base64.b64encode(hmac.new(b"1599360473\ndemo", b"", hashlib.sha256).digest()).decode()
    assert feishu.signature("demo", 1599360473) == by_hand


def test_requests(tmp_path: Path, far: Far) -> None:
    """As the documents want them: signed when sent, mentioning only if somebody must look, one incident as one."""
    bodies = {}
    for case in CASES:
        alert = alert_of(tmp_path, case.kind, case.options.replace("BASE", far.base))
        far.status, far.answer = case.good[0], case.good[1].encode()
        send(alert, incident="abcd1234", event={"kind": "check"})
        send(alert, incident="abcd1234", mention=False, recovered=True)
        bodies[case.kind] = far.bodies[-2:]
        query = parse_qs(urlsplit(far.paths[-1]).query)
        if case.kind == "dingtalk":
            assert query["access_token"] == [SECRET]
            assert query["sign"] == [dingtalk.signature("SECsign", int(query["timestamp"][0]))]
        if case.kind in ("ntfy", "webhook"):
            assert far.headers[-1]["Authorization"] == f"Bearer {SECRET}"
    assert [one["at"]["atMobiles"] for one in bodies["dingtalk"]] == [["13800001111"], []]
    assert bodies["dingtalk"][0]["text"]["content"] == f"{TEXT}\n@13800001111"
    assert bodies["feishu"][0]["content"]["text"].endswith('<at user_id="all"></at>')
    assert bodies["feishu"][0]["sign"] == feishu.signature("s", int(bodies["feishu"][0]["timestamp"]))
    assert "&lt;b&gt; &amp;" in bodies["slack"][0]["text"]
    assert bodies["slack"][0]["text"].endswith("<@U1>\n<!channel>")
    assert [one["disable_notification"] for one in bodies["telegram"]] == [False, True]
    assert [one["priority"] for one in bodies["ntfy"]] == [5, 3]
    assert [one["event_action"] for one in bodies["pagerduty"]] == ["trigger", "resolve"]
    assert len({one["dedup_key"] for one in bodies["pagerduty"]}) == 1
    assert (bodies["webhook"][0]["incident"], bodies["webhook"][0]["event"]) == ("abcd1234", {"kind": "check"})


def test_a_command(tmp_path: Path) -> None:
    """The text on its stdin; an exit status, a program that is missing or hangs is told, and what hangs is ended."""
    (tmp_path / "tell.sh").write_text('#!/bin/sh\ncat > got; echo "$RESTART_GUARD_INCIDENT" >> got; exit ${1:-0}\n')
    alert = alert_of(tmp_path, "command", f"run = \"sh -c 'cd {tmp_path}; sh tell.sh'\"")
    send(alert, incident="abcd1234")
    assert (tmp_path / "got").read_text() == f"{TEXT}abcd1234\n"
    for run, told in (
        ("sh -c 'exit 3'", "exit status 3"),
        ("/nowhere/tell", "could not be started"),
        ("cat /dev/zero", ""),
    ):
        more = 'timeout = "300ms"' if not told else ""
        with pytest.raises(DeliveryError) as caught:
            send(alert_of(tmp_path, "command", f'run = "{run}"\n{more}'))
        assert (told or "took longer than 300ms") in str(caught.value)


def test_configs(tmp_path: Path) -> None:
    """Every problem with its key; a kind that is not known, and a name that is taken."""
    for text, told in (
        ('[alerts.x]\nkind = "dingtak"\n', "alerts.x.kind: expected one of command, dingtalk"),
        ('[alerts.x]\nkind = "dingtalk"\n', "alerts.x.webhook: expected"),
        ('[alerts.x]\nkind = "slack"\nwebhook = "a"\nchannel = "b"\n', "alerts.x.channel: there is no such option"),
        ('[alerts.wecom]\nkind = "slack"\nwebhook = "a"\n', "alerts.wecom: expected a name"),
        ('[alerts.x]\nwebhook = "a"\n', "alerts.x.kind: expected"),
        ("alerts = 3\n", "alerts: expected tables"),
        ("[alerts]\nx = 3\n", "alerts.x: expected a table"),
    ):
        (tmp_path / "config.toml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load.load(tmp_path / "config.toml", {}, registry.options)
        assert told in str(caught.value), text


def config_with(folder: Path, text: str) -> Config:
    (folder / "config.toml").write_text(text)
    return load.load(folder / "config.toml", {}, registry.options)


def test_every_kind_is_one_file_and_one_line(tmp_path: Path) -> None:
    """Which is all that CONTRIBUTING asks for."""
    files = {path.stem for path in Path(registry.__file__).parent.glob("*.py")} - {"__init__", "registry", "post"}
    assert files == set(registry.kinds())
    for module in registry.kinds().values():
        assert module.__doc__
        assert callable(module.send)


def test_a_tick_does_not_pay_for_what_sends(guard: Guard) -> None:
    """It reads the options of each kind, and sends nothing."""
    tables = "".join(f'[alerts.a{number}]\nkind = "{case.kind}"\n{case.options}\n' for number, case in enumerate(CASES))
    mail = '[alerts.m]\nkind = "email"\nhost = "h"\nsender = "a@b"\nto = ["c@d"]\n'
    mail += '[alerts.c]\nkind = "command"\nrun = "true"\n'
    guard.configure(tables.replace("BASE", "https://x.example") + mail)
    code = (
        "import sys; from restart_guard.entry import run\n"
        f"assert run(['-c', {str(guard.config)!r}, 'restart']) == 0\n"
        "dear = ('requests', 'smtplib', 'email.message', 'subprocess', 'pymysql')\n"
        "print([name for name in dear if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=guard.environ, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == "[]\n"


def test_an_alert_goes_everywhere_it_is_wanted(guard: Guard, far: Far) -> None:
    """In the language of each, with what a failure is; a channel that is away holds up no other, and gets it later."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    guard.configure(
        '[redis]\nurl = "redis://127.0.0.1:1/0"\n[checks.meta]\nkeys = ["k"]\nretries = 0\n'
        f'[alerts.en]\nkind = "webhook"\nurl = "{far.base}/en"\nlanguage = "en"\n'
        f'[alerts.zh]\nkind = "webhook"\nurl = "{far.base}/zh"\nonly = ["check:*"]\n'
        f'[alerts.not]\nkind = "webhook"\nurl = "{far.base}/not"\nonly = ["target:*", "check:other"]\n'
        f'[alerts.away]\nkind = "webhook"\nurl = "http://127.0.0.1:{port}/x"\n'
    )
    assert guard("check-redis").code == 1
    got = dict(zip(far.paths, far.bodies, strict=True))
    assert set(got) == {"/en", "/zh"}
    assert got["/en"]["text"].startswith("[")
    assert got["/zh"]["text"].startswith("【")
    assert got["/en"]["event"]["name"] == "meta"
    assert got["/en"]["incident"] in got["/en"]["text"]
    (event,) = guard.history()
    assert event["delivered"] == {"en": True, "zh": True, "away": False}
    assert guard("doctor", "--send-test-alert", "zh").code == 1
    assert far.paths.count("/zh") == 2
    assert far.paths.count("/en") == 1
    guard.config.write_text(guard.config.read_text().replace(f"127.0.0.1:{port}", far.base.removeprefix("http://")))
    assert guard("deliver", "--all").code == 0
    wait_until(lambda: "/x" in far.paths, what="the late one")


def test_a_fallback(guard: Guard, far: Far, wecom: FakeWeCom) -> None:
    """It arrives once, when its time has come; and not at all if the first way has worked by then."""
    guard.configure(
        '[redis]\nurl = "redis://127.0.0.1:1/0"\n[checks.meta]\nkeys = ["k"]\nretries = 0\n[checks.too]\nkeys = ["k"]\n'
        f'retries = 0\n[wecom]\nwebhook = "{wecom.webhook}"\nlanguage = "en"\nrepeat_interval = "0s"\n'
        f'[alerts.backup]\nkind = "webhook"\nurl = "{far.base}/x"\nfallback_for = "wecom"\nafter = "1h"\n'
    )
    hour = {"PYTHONPATH": str(PROGRAMS), "RG_CLOCK_SHIFT": "3700"}
    wecom.script.extend(["502"] * 3)
    guard("check-redis", "meta")
    guard("deliver")
    assert (far.paths, wecom.texts) == ([], [])
    wecom.script.extend(["502"] * 10)
    guard("deliver", environ=hour)
    assert len(far.bodies) == 1
    assert "meta" in far.bodies[0]["text"]
    guard("deliver", environ=hour)
    assert len(far.bodies) == 1
    wecom.script.clear()
    guard("deliver", environ=hour)
    assert len(wecom.texts) == 1
    guard("check-redis", "too")
    guard("deliver", environ=hour)
    assert (len(far.bodies), len(wecom.texts)) == (1, 2)
    states = {one["destination"]: (one["state"], one["error"]) for one in guard.history()[0]["deliveries"]}
    assert states["backup"] == ("delivered", "not needed, wecom has it")


def test_a_fallback_for_nothing_is_told(tmp_path: Path) -> None:
    """Nor for itself."""
    for other in ("wecom", "x", "y"):
        (tmp_path / "config.toml").write_text(f'[alerts.x]\nkind = "slack"\nwebhook = "a"\nfallback_for = "{other}"\n')
        with pytest.raises(ConfigError, match=r"alerts\.x\.fallback_for: expected another way"):
            load.load(tmp_path / "config.toml", {}, registry.options)
