"""The texts about leaderships, in Chinese and English. Pure."""

from datetime import datetime

from restart_guard.alerts.wording import Language, clip, fit, moment, say
from restart_guard.durations import span

_WORDS: dict[str, tuple[str, str]] = {
    "took_over": (
        "【接管】{group}：{node} 接管，此前约 {gap} 无主机运行目标程序",
        "[TAKEOVER] {group}: {node} leads now, after about {gap} without a leader",
    ),
    "first": ("【接管】{group}：{node} 成为首个主机", "[TAKEOVER] {group}: {node} is the first to lead"),
    "stepped_down": (
        "【让位】{group}：{node} 停止运行目标程序：{why}",
        "[STEP-DOWN] {group}: {node} stops its targets: {why}",
    ),
    "token": ("令牌 {token}", "fencing token {token}"),
    "no_token": ("无令牌（未配置 MySQL 或不可用）", "without a fencing token: {why}"),
    "when": ("时间：{at}", "time: {at}"),
}


def took_over(group: str, node: str, gap_s: float | None, language: Language) -> str:
    """``gap_s``: how long nobody led; None for the first leader."""
    if gap_s is None:
        return say(_WORDS, "first", language, group=clip(group, 80), node=clip(node, 80))
    return say(_WORDS, "took_over", language, group=clip(group, 80), node=clip(node, 80), gap=span(gap_s))


def stepped_down(group: str, node: str, why: str, language: Language) -> str:
    return say(_WORDS, "stepped_down", language, group=clip(group, 80), node=clip(node, 80), why=clip(why, 300))


def token(number: int | None, why: str, language: Language) -> str:
    word = "no_token" if number is None else "token"
    return say(_WORDS, word, language, token=number, why=clip(why, 300))


def alert(head: str, detail: str, *, language: Language, at: datetime) -> str:
    return fit(f"{head}\n", f"{detail}\n" if detail else "", say(_WORDS, "when", language, at=moment(at)))
