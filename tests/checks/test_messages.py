"""The words of alerts and rows: complete on the first line, exact in bytes, harmless."""

import re
from datetime import datetime, timedelta, timezone
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restart_guard.alerts.wording import TEXT_LIMIT, Language, fit
from restart_guard.checks import messages
from restart_guard.checks.outcome import Attempt, KeyProblem, Outcome, Reading
from restart_guard.errors import Remedy, StoreError
from restart_guard.journal.incident import Incident, Notice
from restart_guard.redis_server import client as redis_client
from restart_guard.redis_server import wording

AT = datetime(2026, 11, 23, 2, 0, 15, tzinfo=timezone(timedelta(hours=8)))
INCIDENT = Incident("1a2b3c4d", AT - timedelta(hours=4), 2, 2, AT)
LANGUAGES: tuple[Language, ...] = get_args(Language)


def outcome(reading: Reading, attempts: int = 3, check: str = "metadata", host: str = "web-01") -> Outcome:
    tried = (Attempt("command", "exited", "1", "no data <@all>"),) * attempts
    return Outcome("1a2b3c4d-0000", check, AT, 15.2, reading, tried, "redis cache:6379/0", host)


BAD = outcome(Reading(2, (KeyProblem("文章:1", "missing"), KeyProblem("b", "type", "hash", "string")), 2))


def test_the_first_line_alone_tells_what_broke_where_and_how_badly() -> None:
    """A phone shows no more than this."""
    zh = messages.notice(BAD, INCIDENT, Notice.FIRST, language="zh", at=AT).splitlines()[0]
    assert zh == "【故障】Redis 数据 metadata：2 个键中 2 个异常（文章:1 不存在），3 次重启尝试均失败 | web-01"
    en = messages.notice(BAD, INCIDENT, Notice.REPEAT, language="en", at=AT).splitlines()[0]
    assert en == (
        "[STILL DOWN] Redis data metadata: 2 of 2 keys bad (文章:1 is missing); 3 restart attempts failed | web-01"
    )


def test_a_recovery_tells_how_long_it_took() -> None:
    """Its first line has the length of the incident, its last line the incident's number."""
    good = outcome(Reading(2), attempts=0)
    text = messages.notice(good, INCIDENT, Notice.RECOVERED, language="zh", at=AT)
    assert text.splitlines()[0] == "【恢复】Redis 数据 metadata 已恢复正常，故障持续 4h，共失败 2 次 | web-01"
    assert text.splitlines()[-1] == "编号 1a2b3c4d"


def test_a_wrong_password_says_what_to_do() -> None:
    """The alert names the options to check and says that no restart was attempted."""
    trouble = StoreError("invalid", code="WRONGPASS", remedy=Remedy.PERSON)
    text = messages.notice(outcome(Reading(0, trouble=trouble), 0), INCIDENT, Notice.FIRST, language="zh", at=AT)
    assert "拒绝了用户名或密码：请检查 [redis] username 和 password (WRONGPASS)，未尝试重启" in text.splitlines()[0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_is_there_in_both_languages(language: Language) -> None:
    """Each code that a reading, an attempt or a server can have has words, and no placeholder is left in them."""
    for code in ("missing", "type", "empty", "small", "large", "ttl_low", "ttl_high", "no_ttl", "stale", "json", "few"):
        assert "{" not in messages.reason(KeyProblem("k", code, "f", "w", "l"), language)
    for how in (
        "read_again",
        "exited",
        "signalled",
        "timed_out",
        "not_started",
        "ready",
        "not_ready",
        "refreshed",
        "not_refreshed",
        "restarted",
        "not_restarted",
    ):
        assert "{" not in messages.attempt_text(Attempt("command", how, "d"), language)
    for code in [*redis_client.REMEDIES, "refused", "timeout", "unreachable", "closed", "tls", "cluster", "secret"]:
        said = wording.trouble(StoreError("said", code=code, remedy=Remedy.RETRY), "redis h:1/0", language)
        assert said.startswith("redis h:1/0")
        assert "{" not in said


foreign = st.text() | st.text(alphabet="中<@all>/\u202e\n\0\ud800{}x", max_size=3000)
harmful = re.compile("<[@/A-Za-z]|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@given(head=foreign, variable=foreign, tail=foreign, limit=st.integers(0, 3000))
def test_a_text_fits_to_the_byte_and_mentions_nobody(head: str, variable: str, tail: str, limit: int) -> None:
    """Never over the limit, never half a character, never a mention; the fixed parts stay whole where they fit."""
    text = fit(head, variable, tail, limit)
    assert len(text.encode()) <= limit
    assert harmful.search(text) is None
    whole = fit(head, "", tail, 10**6)
    if len(whole.encode()) + 8 <= limit and len(variable) < 3000:
        harmless_tail = fit("", "", tail, 10**6)
        assert text.endswith(harmless_tail)


def test_only_the_variable_part_is_cut_and_the_cut_is_marked() -> None:
    """Head and tail stay whole, and no character is cut in half."""
    text = fit("头\n", "键" * 2000, "尾", 100)
    assert text.startswith("头\n键")
    assert text.endswith("…\n尾")
    assert 95 <= len(text.encode()) <= 100


@given(key=foreign, check=foreign, host=foreign, count=st.integers(1, 60), language=st.sampled_from(LANGUAGES))
def test_an_alert_keeps_its_number_whatever_the_data_is_called(
    key: str, check: str, host: str, count: int, language: Language
) -> None:
    """Long and strange names never push out the incident's number, and never get the message refused."""
    reading = Reading(count, tuple(KeyProblem(f"{key}{n}", "missing") for n in range(count)), count)
    text = messages.notice(outcome(reading, check=check, host=host), INCIDENT, Notice.FIRST, language=language, at=AT)
    assert len(text.encode()) <= TEXT_LIMIT
    assert "1a2b3c4d" in text.splitlines()[-1]
    assert harmful.search(text) is None


def test_a_row_is_in_local_time_and_quotes_its_command() -> None:
    """The row's command can be pasted into a shell."""
    row = messages.row(outcome(Reading(1), 0, check="文章 统计"), language="zh", log_path="/l", at=AT)
    assert row.task_execution_time == "2026-11-23 02:00:15"
    assert row.task_command == "restart-guard check-redis '文章 统计'"
    assert row.task_description == "Redis 数据检查 文章 统计"


def test_keys_and_patterns_are_counted_apart() -> None:
    """A pattern that matches too little is no key."""
    few = KeyProblem("irm:*", "few", "0", "1")
    both = Reading(2, (KeyProblem("a", "missing"), KeyProblem("b", "missing"), few), 3, bad_patterns=1)
    assert "2 of 2 keys and 1 pattern bad" in messages.summary(outcome(both), "en")
    assert "2 个键中 2 个异常，另有 1 个模式异常" in messages.summary(outcome(both), "zh")
    only = Reading(5, (few,), 1, bad_patterns=1)
    assert messages.summary(outcome(only), "en").startswith("1 pattern bad (irm:* matches 0 keys")


def test_without_a_recovery_no_attempt_is_claimed() -> None:
    """The data was read again, and that is said, once."""
    again = outcome(Reading(1, (KeyProblem("a", "missing"),), 1), 0)._replace(
        attempts=(Attempt("none", "read_again"),) * 3
    )
    assert messages.summary(again, "en").endswith("still bad when read again (3 times); no recovery is configured")
    assert "重启尝试" not in messages.summary(again, "zh")
    text = messages.notice(again, INCIDENT, Notice.FIRST, language="en", at=AT)
    assert text.count("no recovery is configured") == 1
