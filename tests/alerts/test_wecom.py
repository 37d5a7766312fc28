"""WeCom's two channels against its documented behaviour: judged by errcode, exact in bytes, without redirects."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restart_guard.alerts.wecom import App, Robot
from restart_guard.alerts.wording import fit
from restart_guard.config.options import WeCom
from restart_guard.config.secrets import Secret
from restart_guard.errors import DeliveryError
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import free_port


def robot(fake: FakeWeCom, **options: Any) -> Robot:
    return Robot(WeCom(**{"webhook": Secret(key="wecom.webhook", text=fake.webhook)} | options))


def app(fake: FakeWeCom, state_dir: Path, **options: Any) -> App:
    usual: dict[str, Any] = {
        "corp_id": "corp-1",
        "corp_secret": Secret(key="wecom.corp_secret", text="corp-secret-0001"),
        "agent_id": 1000002,
        "to_users": ("zhangsan", "lisi"),
        "api_base": fake.base,
    }
    return App(WeCom(**usual | options), state_dir)


def refused(channel: Robot | App, text: str = "x") -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        channel.send(text, mention=True)
    assert "good-webhook-key-0001" not in str(caught.value)
    assert "corp-secret-0001" not in str(caught.value)
    return caught.value


def test_a_text_mentions_the_configured_people(wecom: FakeWeCom) -> None:
    """By mobile and by user id; a message that is no alarm mentions nobody. The body is UTF-8, not \\u escapes."""
    channel = robot(wecom, mentioned_mobiles=("13800001111",), mentioned_users=("zhangsan",))
    assert channel.send("故障", mention=True) is None
    assert channel.send("恢复", mention=False) is None
    assert wecom.messages == [
        {
            "msgtype": "text",
            "text": {"content": "故障", "mentioned_list": ["zhangsan"], "mentioned_mobile_list": ["13800001111"]},
        },
        {"msgtype": "text", "text": {"content": "恢复"}},
    ]
    assert "故障".encode() in wecom.bodies[0]


def test_the_webhook_may_be_a_url_or_only_its_key(wecom: FakeWeCom) -> None:
    """A bare key is completed with api_base, also one with a path."""
    key = Secret(key="wecom.webhook", text="good-webhook-key-0001")
    robot(wecom, webhook=key, api_base=wecom.base + "/prefix/").send("x", mention=False)
    assert wecom.requests == [("POST", "/prefix/cgi-bin/webhook/send")]
    assert len(wecom.messages) == 1


@pytest.mark.parametrize("size", [2047, 2048])
def test_a_text_of_the_limit_is_taken_whole(wecom: FakeWeCom, size: int) -> None:
    """WeCom's documented limit counts bytes of UTF-8, and a text of that size arrives unchanged."""
    text = fit("", "中" * 1000, "", size)
    assert robot(wecom).send(text, mention=False) is None
    assert wecom.texts == [text]


def test_a_text_that_the_server_finds_too_long_is_sent_once_more_in_short(wecom: FakeWeCom) -> None:
    """Then only its first line goes out, once."""
    robot(wecom).send("第一行\n" + "中" * 1000, mention=False)
    assert wecom.texts == ["第一行"]
    assert len(wecom.requests) == 2


@pytest.mark.parametrize(
    ("code", "permanent", "whole", "silence"),
    [
        (-1, False, True, 0), (6000, False, True, 0), (45009, False, True, 60), (45033, False, True, 0),
        (93000, True, True, 0), (93004, True, True, 0), (93008, True, True, 0), (60020, True, True, 0),
        (93017, False, True, 0), (424242, False, True, 0),
    ],
)  # fmt: skip
def test_a_code_is_transient_permanent_or_rate_limited(
    wecom: FakeWeCom, code: int, permanent: bool, whole: bool, silence: float
) -> None:
    """An unknown code is kept and tried again; it may be anything."""
    wecom.script.append(code)
    error = refused(robot(wecom))
    assert (error.code, error.permanent, error.whole_destination) == (str(code), permanent, whole)
    assert error.not_before_s == silence
    assert len(wecom.requests) == 1


def test_a_body_that_is_refused_twice_blocks_only_this_message(wecom: FakeWeCom) -> None:
    """The next message may still be sent: the error is permanent, but not one of the whole destination."""
    wecom.script += [44004, 44004]
    error = refused(robot(wecom))
    assert (error.permanent, error.whole_destination) == (True, False)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("502", "it answers HTTP 502"),
        ("html", "not JSON"),
        ("empty", "not JSON"),
        ("half", "the connection failed"),
        ("drop", "the connection failed"),
        ("drop-after", "the connection failed"),
        ("redirect", "redirects are not followed"),
        ('{"errcode": "0"}', "no errcode"),
        ('{"errmsg": "ok"}', "no errcode"),
        ("[0]", "no errcode"),
        ('{"errcode": true}', "no errcode"),
        ("[" * 50_000, "not JSON"),
    ],
)
def test_what_is_no_answer_of_wecom_is_kept_and_tried_again(wecom: FakeWeCom, fault: str, words: str) -> None:
    """HTML, half replies and odd status codes are temporary errors, and nothing is sent twice at once."""
    wecom.script.append(fault)
    error = refused(robot(wecom))
    assert words in str(error)
    assert not error.permanent
    assert wecom.requests == [("POST", "/cgi-bin/webhook/send")]


def test_a_pseudo_success_is_sent_again_in_short_and_then_counts(wecom: FakeWeCom) -> None:
    """errcode 0 with "wrong json format": reports conflict on whether it arrived, so once more, and not for ever."""
    wecom.script += ["format", "format"]
    assert "malformed, but accepted it" in str(robot(wecom).send("x", mention=False))
    assert len(wecom.requests) == 2


def test_every_wait_is_bounded(wecom: FakeWeCom) -> None:
    """A server that hangs, and one that sends a byte now and then."""
    for fault in ("hang", "drip"):
        begun = time.monotonic()
        wecom.script.append(fault)
        error = refused(robot(wecom))
        assert "no answer in time" in str(error)
        assert time.monotonic() - begun < 12


def test_a_server_that_is_not_there_is_transient(wecom: FakeWeCom) -> None:
    """A refused connection and an unknown host name are temporary errors without the key in their text."""
    down = Secret(key="w", text=f"http://127.0.0.1:{free_port()}/cgi-bin/webhook/send?key=good-webhook-key-0001")
    assert refused(robot(wecom, webhook=down)).code == "refused"
    lost = Secret(key="w", text="https://no-such-host.invalid/cgi-bin/webhook/send?key=good-webhook-key-0001")
    error = refused(robot(wecom, webhook=lost))
    assert (error.code, error.permanent) == ("dns", False)


def test_plain_http_needs_loopback_or_consent(wecom: FakeWeCom) -> None:
    """The key would be readable on the wire."""
    away = Secret(key="w", text="http://wecom.invalid/send?key=good-webhook-key-0001")
    error = refused(robot(wecom, webhook=away))
    assert (error.code, error.permanent) == ("url", True)
    assert refused(robot(wecom, webhook=away, allow_http=True)).code == "dns"


def test_a_login_from_netrc_is_not_sent(wecom: FakeWeCom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """~/.netrc is not for us: no Authorization header goes out."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password netrc-secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", wecom.base)
    away = Secret(key="w", text="http://wecom.invalid/cgi-bin/webhook/send?key=good-webhook-key-0001")
    robot(wecom, allow_http=True, webhook=away).send("x", mention=False)
    assert len(wecom.messages) == 1
    assert "Authorization" not in wecom.headers[0]


def test_a_proxy_is_used(wecom: FakeWeCom) -> None:
    """The fake plays the proxy: it is asked for the whole address."""
    proxied = Secret(key="w", text="http://wecom.invalid/cgi-bin/webhook/send?key=good-webhook-key-0001")
    proxy = Secret(key="wecom.proxy", text=wecom.base)
    assert robot(wecom, webhook=proxied, proxy=proxy, allow_http=True).send("x", mention=False) is None
    assert len(wecom.messages) == 1


def test_an_app_message_reaches_persons_with_a_cached_token(wecom: FakeWeCom, tmp_path: Path) -> None:
    """Three messages need one login; the token's file is private and does not hold the secret."""
    for text in ("一", "二", "三"):
        assert app(wecom, tmp_path).send(text, mention=True) is None
    assert wecom.tokens_made == 1
    assert [message["touser"] for message in wecom.messages] == ["zhangsan|lisi"] * 3
    cache = tmp_path / "wecom_token.json"
    assert cache.stat().st_mode & 0o777 == 0o600
    assert "corp-secret-0001" not in cache.read_text()


def test_a_token_that_was_revoked_is_fetched_once_more(wecom: FakeWeCom, tmp_path: Path) -> None:
    """Another host's login may end ours early. A second refusal needs a person, and no endless loop."""
    app(wecom, tmp_path).send("一", mention=True)
    wecom.tokens.clear()
    app(wecom, tmp_path).send("二", mention=True)
    assert (wecom.tokens_made, wecom.texts) == (2, ["一", "二"])
    wecom.script += [42001, 0, 42001]
    error = refused(app(wecom, tmp_path), "三")
    assert (error.code, error.permanent) == ("42001", True)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"key": 3}', b'{"until": "x"}'])
def test_a_damaged_token_file_is_ignored(wecom: FakeWeCom, tmp_path: Path, damage: bytes) -> None:
    """The app logs in again, and the message arrives."""
    (tmp_path / "wecom_token.json").write_bytes(damage)
    assert app(wecom, tmp_path).send("一", mention=True) is None


def test_a_token_of_another_app_is_not_used(wecom: FakeWeCom, tmp_path: Path) -> None:
    """A changed secret or app logs in again, changed receivers do not."""
    app(wecom, tmp_path).send("一", mention=True)
    cached = json.loads((tmp_path / "wecom_token.json").read_text())
    app(wecom, tmp_path, to_users=("lisi",)).send("二", mention=True)
    assert wecom.tokens_made == 1
    wecom.corp = ("corp-1", "corp-secret-0002", 1000002)
    changed = Secret(key="s", text="corp-secret-0002")
    app(wecom, tmp_path, corp_secret=changed).send("三", mention=True)
    assert wecom.tokens_made == 2
    assert json.loads((tmp_path / "wecom_token.json").read_text())["key"] != cached["key"]


def test_receivers_that_do_not_exist_are_named(wecom: FakeWeCom, tmp_path: Path) -> None:
    """Some unknown receivers are a note; if all are unknown, the error is permanent."""
    note = app(wecom, tmp_path, to_users=("zhangsan", "wangwu")).send("一", mention=True)
    assert note is not None
    assert "wangwu" in note
    error = refused(app(wecom, tmp_path, to_users=("wangwu",)))
    assert (error.code, error.permanent) == ("81013", True)


def test_the_same_message_twice_is_received_once(wecom: FakeWeCom, tmp_path: Path) -> None:
    """The body is the same at each try, so the server's duplicate check works."""
    wecom.script += [0, "drop-after"]
    refused(app(wecom, tmp_path), "一")
    app(wecom, tmp_path).send("一", mention=True)
    assert wecom.texts == ["一"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"corp_id": "corp-9"}, "40013"),
        ({"corp_secret": Secret(key="s", text="wrong-secret")}, "40001"),
        ({"agent_id": 5}, "40056"),
    ],
)
def test_a_wrong_app_is_permanent_and_says_what_to_check(
    wecom: FakeWeCom, tmp_path: Path, options: dict[str, Any], code: str
) -> None:
    """Wrong ids and secrets name the option to check."""
    error = refused(app(wecom, tmp_path, **options))
    assert (error.code, error.permanent) == (code, True)
    assert "check [wecom]" in str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(body=st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["errcode", "errmsg", "invaliduser"]), inner),
).map(json.dumps).map(str.encode))  # fmt: skip
def test_any_answer_is_a_success_or_a_sentence(wecom: FakeWeCom, body: bytes) -> None:
    """Only an object with the integer errcode 0 is a success."""
    wecom.script.clear()
    wecom.script += [body.decode("latin-1")] * 2
    try:
        robot(wecom).send("x", mention=False)
    except DeliveryError as error:
        assert str(error).startswith("WeCom")
    else:
        assert json.loads(body)["errcode"] == 0
