"""What all messages to people share: language, length, shortening, times. Pure."""

import re
from datetime import datetime
from typing import Literal

from restart_guard.config.values import DIRECTIONS

Language = Literal["zh", "en"]

TEXT_LIMIT = 2048
"""Bytes of UTF-8 in a WeCom text, of a group robot (document 99110) and of an app message (document 90236) alike."""

_CUT = "…"
_LINK = re.compile(r"<(?=[@/A-Za-z])")  # <@userid> mentions somebody, <a href=…> is a link (document 90236)
_DROPPED = dict.fromkeys((0, *DIRECTIONS))

_WORDS: dict[str, tuple[str, str]] = {
    "test": ("【测试】", "[TEST] "),
    "unrecorded": ("本机日志库不可写，结果未记录", "the journal cannot be written, this outcome is not recorded"),
    "journal_down": (
        "【故障】restart-guard 日志库不可写，结果未记录（{subject} 正常） | {host}",
        "[DOWN] restart-guard cannot write its journal ({subject} is good, but not recorded) | {host}",
    ),
    "why": ("日志库：{why}", "journal: {why}"),
    "test_body": (
        "这是一条测试消息，收到即表示报警通道可用。",
        "This is a test message: the alert channel works when a person reads it.",
    ),
}


def say(table: dict[str, tuple[str, str]], word: str, language: Language, **values: object) -> str:
    return table[word][language == "en"].format(**values)


def unrecorded(text: str, why: str, *, good_subject: str | None, host: str, language: Language) -> str:
    """An alert's text that also says, in its first line, that the journal could not be written.

    ``good_subject`` names what is well, and only could not be recorded.
    """
    head, _, rest = text.partition("\n")
    if good_subject is not None:
        head = say(_WORDS, "journal_down", language, subject=good_subject, host=clip(host, 80))
    else:
        what, separator, host = head.rpartition(" | ")
        head = f"{what} | {say(_WORDS, 'unrecorded', language)}{separator}{host}"
    return fit(f"{head}\n{say(_WORDS, 'why', language, why=clip(why, 300))}\n", rest, "")


def test_alert(host: str, at: datetime, language: Language) -> str:
    head = f"{say(_WORDS, 'test', language)}restart-guard | {host}"
    return fit(f"{head}\n", say(_WORDS, "test_body", language), f"\n{moment(at)}")


def fit(head: str, variable: str, tail: str, limit: int = TEXT_LIMIT) -> str:
    """The three parts as one text of at most ``limit`` bytes of UTF-8. Only the variable part is cut, and the cut is
    visible.

    Text from outside must not mention anybody, be a link, or turn the direction of what follows, and must be valid
    UTF-8.
    """
    # A mention must not come into being where two parts meet, either.
    parts = [_harmless(part) for part in (head, variable, tail)]
    head, variable, tail = (part + " " if part.endswith("<") else part for part in parts)
    room = limit - len((head + tail).encode())
    if len(variable.encode()) > room:
        variable = _cut(variable, room - 1) + "\n"
    return _cut(head + variable + tail, limit)


def _harmless(text: str) -> str:
    return _LINK.sub("< ", text.encode(errors="replace").decode().translate(_DROPPED))


def _cut(text: str, limit: int) -> str:
    """At most ``limit`` bytes of UTF-8, never half a character; the cut is marked if there is room for the mark."""
    data = text.encode()
    if len(data) <= limit:
        return text
    mark = _CUT if limit >= len(_CUT.encode()) else ""
    return data[: max(0, limit - len(mark.encode()))].decode(errors="ignore") + mark


def clip(text: str, limit: int) -> str:
    """Text from outside on one line and of limited length, so that the fixed parts of a message always fit."""
    return _cut(" ".join(text.encode(errors="replace").decode().split()), limit)


def moment(at: datetime) -> str:
    """``2026-11-23 02:00:15 +08:00``"""
    return at.isoformat(sep=" ", timespec="seconds")[:19] + " " + at.isoformat()[-6:]
