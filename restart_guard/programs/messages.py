"""The texts of alerts about targets, in Chinese and English. Pure: values in, text out."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from restart_guard.alerts.wording import Language, clip, fit, moment, say
from restart_guard.counts import counted
from restart_guard.durations import span
from restart_guard.host.hook import signal_name
from restart_guard.journal.incident import Incident, Notice, ended
from restart_guard.programs.crashes import Death

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
    "died": ("最近一次退出：{how}", "last death: {how}"),
    "status": ("退出状态 {status}", "exit status {status}"),
    "signal": ("信号 {signal}", "signal {signal}"),
    "unseen": ("原因不明", "nobody saw how"),
    "lived": ("{how}，运行了 {lived}", "{how}, after {lived}"),
    "lived_at_most": ("{how}，最多运行了 {lived}", "{how}, after {lived} at most"),
    "next": ("下次尝试：至少 {wait} 后", "next try: not before {wait}"),
    "output": ("日志末尾：", "the end of its log:"),
    "command": ("查看：{command}", "look: {command}"),
    "reason": ("原因：{why}", "reason: {why}"),
    "log": ("日志：{log}", "log: {log}"),
    "when": ("时间：{at}", "time: {at}"),
    "id": ("编号 {id}", "incident {id}"),
}


class CrashLoop(NamedTuple):
    """A target that keeps dying: the number of ``relaunches`` in a row, ``why`` the last one was, its last ``death``.

    ``log`` may be empty; ``command`` is what a person types to see more.
    """

    target: str
    relaunches: int
    why: str
    death: Death | None = None
    log: str = ""
    log_lines: tuple[str, ...] = ()
    next_try_s: float = 0.0
    command: str = ""


def how_it_died(death: Death, language: Language) -> str:
    """Exit status or signal, where anybody knows it, and how long it had run."""
    if death.status is None:
        how = say(_WORDS, "unseen", language)
    elif death.status >= 0:
        how = say(_WORDS, "status", language, status=death.status)
    else:
        how = say(_WORDS, "signal", language, signal=signal_name(-death.status))
    return say(
        _WORDS, "lived" if death.is_seen else "lived_at_most", language, how=how, lived=span(max(0.0, death.lived_s))
    )


def keeps_dying(loop: CrashLoop, incident: Incident, *, language: Language, host: str, at: datetime) -> str:
    """The text of the alert; ``at`` is local and aware."""
    words = {"target": clip(loop.target, 80), "host": clip(host, 80)}
    times = counted(loop.relaunches, "time")
    lines = [
        say(_WORDS, Notice.FIRST.value, language, **words, count=loop.relaunches, times=times),
        say(_WORDS, "when", language, at=moment(at)),
    ]
    if loop.death is not None:
        lines.append(say(_WORDS, "died", language, how=how_it_died(loop.death, language)))
    lines += [say(_WORDS, "next", language, wait=span(loop.next_try_s))] if loop.next_try_s else []
    lines += [say(_WORDS, "log", language, log=clip(loop.log, 200))] if loop.log else []
    middle = [say(_WORDS, "why", language, why=clip(loop.why, 600))]
    if loop.log_lines:
        middle += [say(_WORDS, "output", language), *(clip(line, 200) for line in loop.log_lines)]
    return fit(_joined(lines), _joined(middle), _ending(incident, loop.command, language))


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _ending(incident: Incident, command: str, language: Language) -> str:
    seen = [say(_WORDS, "command", language, command=command)] if command else []
    return "\n".join([*seen, say(_WORDS, "id", language, id=incident.id)])


def cannot_be_guarded(
    target: str, why: str, incident: Incident, *, language: Language, host: str, at: datetime, command: str = ""
) -> str:
    """The text of the alert about a program that can neither be seen to run nor be relaunched."""
    head = say(_WORDS, "stuck", language, target=clip(target, 80), host=clip(host, 80))
    lines = f"{head}\n{say(_WORDS, 'when', language, at=moment(at))}\n"
    reason = say(_WORDS, "reason", language, why=clip(why, 600)) + "\n"
    return fit(lines, reason, _ending(incident, command, language))


def well_again(target: str, incident: Incident, *, uptime_s: float, language: Language, host: str, at: datetime) -> str:
    """The text that ends an incident."""
    words = {"target": clip(target, 80), "uptime": span(uptime_s), "host": clip(host, 80)}
    head = say(_WORDS, Notice.RECOVERED.value, language, **words, **ended(incident, at))
    return fit(
        f"{head}\n{say(_WORDS, 'when', language, at=moment(at))}\n", "", say(_WORDS, "id", language, id=incident.id)
    )
