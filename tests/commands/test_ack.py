"""Who knows about something that is wrong is not told again and again."""

import pytest

from tests.conftest import Guard
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import RedisServer

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
