"""The texts of alerts about targets, in Chinese and English. Pure: values in, text out."""

from datetime import datetime
from typing import NamedTuple

from restart_guard.alerts.wording import Language, clip, fit, moment, say
from restart_guard.counts import counted
from restart_guard.durations import span
from restart_guard.journal.incident import Incident, Notice

_WORDS: dict[str, tuple[str, str]] = {
    "first": (
        "【故障】程序 {target} 反复退出：已连续重启 {count} 次，仍会继续尝试 | {host}",
        "[DOWN] program {target} keeps dying: relaunched {times} in a row, and it goes on | {host}",
    ),
    "stuck": (
        "【故障】程序 {target} 无法看护，需要人工处理 | {host}",
        "[DOWN] program {target} cannot be looked after and needs a person | {host}",
    ),
    "recovered": (
        "【恢复】程序 {target} 已稳定运行 {uptime}，故障持续 {lasted} | {host}",
        "[UP] program {target} has been up for {uptime}; it is well again after {lasted} | {host}",
    ),
    "why": ("最近一次：{why}", "last: {why}"),
    "reason": ("原因：{why}", "reason: {why}"),
    "log": ("日志：{log}", "log: {log}"),
    "when": ("时间：{at}", "time: {at}"),
    "id": ("编号 {id}", "incident {id}"),
}


class CrashLoop(NamedTuple):
    """A target that keeps dying: the number of ``relaunches`` in a row, ``why`` it ended the last time; ``log`` may be
    empty."""

    target: str
    relaunches: int
    why: str
    log: str


def keeps_dying(loop: CrashLoop, incident: Incident, *, language: Language, host: str, at: datetime) -> str:
    """The text of the alert; ``at`` is local and aware."""
    head = say(
        _WORDS,
        Notice.FIRST.value,
        language,
        target=clip(loop.target, 80),
        count=loop.relaunches,
        times=counted(loop.relaunches, "time"),
        host=clip(host, 80),
    )
    lines = [head, say(_WORDS, "when", language, at=moment(at))]
    lines += [say(_WORDS, "log", language, log=clip(loop.log, 200))] if loop.log else []
    tail = say(_WORDS, "id", language, id=incident.id)
    return fit("\n".join(lines) + "\n", say(_WORDS, "why", language, why=clip(loop.why, 600)) + "\n", tail)


def cannot_be_guarded(target: str, why: str, incident: Incident, *, language: Language, host: str, at: datetime) -> str:
    """The text of the alert about a program that can neither be seen to run nor be relaunched."""
    head = say(_WORDS, "stuck", language, target=clip(target, 80), host=clip(host, 80))
    tail = say(_WORDS, "id", language, id=incident.id)
    lines = f"{head}\n{say(_WORDS, 'when', language, at=moment(at))}\n"
    return fit(lines, say(_WORDS, "reason", language, why=clip(why, 600)) + "\n", tail)


def well_again(target: str, incident: Incident, *, uptime_s: float, language: Language, host: str, at: datetime) -> str:
    """The text that ends an incident."""
    lasted = span(max(0.0, (at - incident.opened_at).total_seconds()))
    words = {"target": clip(target, 80), "uptime": span(uptime_s), "lasted": lasted, "host": clip(host, 80)}
    head = say(_WORDS, Notice.RECOVERED.value, language, **words)
    return fit(
        f"{head}\n{say(_WORDS, 'when', language, at=moment(at))}\n", "", say(_WORDS, "id", language, id=incident.id)
    )
