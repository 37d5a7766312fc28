"""Who knows about something that is wrong is not told again and again."""

import pytest

from tests.conftest import Guard
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import RedisServer
from tests.support.services import PROGRAMS

pytestmark = pytest.mark.process


def configured(guard: Guard, wecom: FakeWeCom, redis: str) -> Guard:
    return guard.configure(
        f'[redis]\nurl = "{redis}"\n[checks.meta]\nkeys = ["k"]\nretries = 0\n[checks.too]\nkeys = ["k"]\nretries = 0\n'
        f'[wecom]\nwebhook = "{wecom.webhook}"\nrepeat_interval = "0s"\nlanguage = "en"\n[page]\n'
    )


def test_repeats_stop_until_it_is_well(guard: Guard, wecom: FakeWeCom, redis_server: RedisServer) -> None:
    """Of that one only; its end is told, and a new failure is news again."""
    configured(guard, wecom, redis_server.url)
    guard("check-redis")
    guard("check-redis")
    assert len(wecom.texts) == 4
    done = guard("ack", "meta", "-m", "the loader is being mended")
    assert (done.code, "the loader is being mended" in done.out) == (0, True)
    guard("check-redis")
    assert [text for text in wecom.texts[4:] if "meta" in text.partition("\n")[0]] == []
    assert len(wecom.texts) == 5
    assert "acknowledged by" in guard("history").out
    found = {line["what"]: line for line in guard("--json").json}
    assert found["check meta"]["level"] == "warn"
    assert found["check meta"]["text"].endswith(": the loader is being mended")
    assert found["check too"]["level"] == "fail"
    guard("page")
    assert "the loader is being mended" in (guard.state / "page.html").read_text()
    with redis_server.client() as client:
        client.set("k", "v")
        guard("check-redis", "meta")
        assert "meta" in wecom.texts[-1]
        client.delete("k")
    guard("check-redis", "meta")
    guard("check-redis", "meta")
    assert len(wecom.texts) == 8


def test_what_cannot_be_acknowledged(guard: Guard, wecom: FakeWeCom, redis_server: RedisServer) -> None:
    """Nothing that is well, and nothing that there is not."""
    configured(guard, wecom, redis_server.url)
    done = guard("ack", "meta")
    assert (done.code, "there is no open incident" in done.err) == (1, True)
    done = guard("ack", "meat")
    assert (done.code, "did you mean meta?" in done.err) == (2, True)


def test_a_mute(guard: Guard, wecom: FakeWeCom, redis_server: RedisServer) -> None:
    """Nothing is sent, all is recorded; what is still bad at its end is told once, what was mended is not."""
    configured(guard, wecom, redis_server.url)
    done = guard("mute", "meta", "too", "--for", "1h", "-m", "the loader moves")
    assert (done.code, "muted until" in done.out) == (0, True)
    guard("check-redis")
    guard("check-redis")
    assert wecom.texts == []
    assert len([one for one in guard.history() if one["kind"] == "check"]) == 4
    with redis_server.client() as client:
        client.set("k", "v")
        assert guard("check-redis", "too").code == 0
    assert wecom.texts == []
    hours = {"PYTHONPATH": str(PROGRAMS), "RG_CLOCK_SHIFT": "3700"}
    guard("deliver", environ=hours)
    assert [text.partition("\n")[0].count("meta") for text in wecom.texts] == [1]
    guard("deliver", environ=hours)
    assert len(wecom.texts) == 1


def test_unmute(guard: Guard, wecom: FakeWeCom, redis_server: RedisServer) -> None:
    """Of everything, and of what is muted one by one."""
    configured(guard, wecom, redis_server.url)
    assert guard("mute", "--all", "--for", "1h").code == 0
    guard("check-redis", "meta")
    assert wecom.texts == []
    assert guard("unmute", "--all").out.endswith("Told again.\n")
    guard("deliver")
    assert len(wecom.texts) == 1
    assert guard("unmute", "meta").out.endswith("Nothing of that was muted.\n")
    for words in (["mute", "--for", "1h"], ["mute", "meta", "--all", "--for", "1h"], ["unmute"], ["mute", "meta"]):
        assert guard(*words).code == 2


def test_who_was_told_of_a_failure_is_told_of_its_end(
    guard: Guard, wecom: FakeWeCom, redis_server: RedisServer
) -> None:
    """Though it was muted when it ended: when the mute is over."""
    configured(guard, wecom, redis_server.url)
    guard("check-redis", "meta")
    assert len(wecom.texts) == 1
    guard("mute", "meta", "--for", "1h")
    with redis_server.client() as client:
        client.set("k", "v")
        guard("check-redis", "meta")
    assert len(wecom.texts) == 1
    guard("unmute", "meta")
    guard("deliver")
    assert len(wecom.texts) == 2
    assert wecom.texts[1].startswith("[UP]")
