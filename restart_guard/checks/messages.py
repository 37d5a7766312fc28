"""The texts of rows, alerts and result lines about checks, in Chinese and English. Pure: values in, text out."""

import shlex
from datetime import datetime

from restart_guard.alerts.wording import Language, clip, fit, moment, say
from restart_guard.checks.outcome import Attempt, KeyProblem, Outcome
from restart_guard.counts import counted
from restart_guard.durations import span
from restart_guard.journal.incident import Incident, Notice, ended
from restart_guard.mysql.table import Row
from restart_guard.redis_server.wording import trouble

_FIELD_LIMIT = 160

_REASONS: dict[str, tuple[str, str]] = {
    "missing": ("不存在", "is missing"),
    "type": ("类型是 {found}，应为 {wanted}", "is a {found}, expected a {wanted}"),
    "empty": ("为空", "is empty"),
    "small": ("大小为 {found}，至少应为 {wanted}", "has size {found}, expected at least {wanted}"),
    "large": ("大小为 {found}，最多应为 {wanted}", "has size {found}, expected at most {wanted}"),
    "ttl_low": ("还剩 {found} 过期，至少应为 {wanted}", "expires in {found}, expected at least {wanted}"),
    "ttl_high": ("还剩 {found} 过期，最多应为 {wanted}", "expires in {found}, expected at most {wanted}"),
    "no_ttl": ("没有过期时间", "has no expiry, expected one"),
    "stale": (
        "数据已有 {found}，不应超过 {wanted}；{left} 后过期",
        "is {found} old, expected at most {wanted}; it expires in {left}",
    ),
    "huge": ("有 {found}，超过可检查的 {wanted}", "has {found}, more than the {wanted} that can be checked"),
    "json": ("不是有效的 JSON（{found}）", "is not JSON ({found})"),
    "persistence": ("{found}", "{found}"),
    "few": ("只匹配到 {found} 个键，至少应为 {wanted}", "matches {keys}, expected at least {wanted}"),
}


_ATTEMPTS: dict[str, tuple[str, str]] = {
    "read_again": ("未配置恢复动作，仅重新读取", "no recovery is configured, only read again"),
    "exited": ("恢复命令已执行，退出码 {detail}", "the recovery command ended with exit status {detail}"),
    "signalled": ("恢复命令被信号 {detail} 终止", "the recovery command was ended by {detail}"),
    "timed_out": ("恢复命令超过 {detail} 未结束，已被终止", "the recovery command was killed after {detail}"),
    "not_started": ("恢复命令无法启动：{detail}", "the recovery command could not be started: {detail}"),
    "restarted": ("已重启 {detail}", "{detail} was restarted"),
    "not_restarted": ("重启 {detail} 失败", "{detail} could not be restarted"),
    "ready": ("等待 Redis 就绪", "waited until Redis was ready"),
    "not_ready": ("等待 {detail} 后 Redis 仍未就绪", "Redis was not ready after {detail}"),
    "refreshed": ("已刷新 {detail}", "refreshed {detail}"),
    "not_refreshed": ("刷新失败 {detail}", "the refresh failed, {detail}"),
    "refused": (
        "拒绝执行 {action}：重启 Redis 可能丢失数据（{detail}）",
        "{action} was refused, because restarting Redis could lose data: {detail}",
    ),
}

_NOUNS = {
    "key": ("个键", "key", "keys"),
    "pattern": ("个模式", "pattern", "patterns"),
    "attempt": ("次重启尝试", "restart attempt", "restart attempts"),
}

_WORDS: dict[str, tuple[str, str]] = {
    "first": ("【故障】", "[DOWN] "),
    "repeat": ("【仍未恢复】", "[STILL DOWN] "),
    "recovered": ("【恢复】", "[UP] "),
    "subject": ("Redis 数据 {check}", "Redis data {check}"),
    "bad_keys": ("{keys}中 {total} 个异常（{example}）", "{total} of {keys} bad ({example})"),
    "bad_both": (
        "{keys}中 {total} 个异常，另有 {patterns}异常（{example}）",
        "{total} of {keys} and {patterns} bad ({example})",
    ),
    "bad_patterns": ("{patterns}异常（{example}）", "{patterns} bad ({example})"),
    "read_again_failed": (
        "又重新读取 {count} 次仍异常，未配置恢复动作",
        "still bad when read again ({times}); no recovery is configured",
    ),
    "attempts_failed": ("{attempts}均失败", "{attempts} failed"),
    "not_attempted": ("未尝试重启", "no restart was attempted"),
    "good": ("{keys}正常，用时 {took}", "{keys} good, read in {took}"),
    "good_again": (
        "{attempts}后恢复正常，{keys}，用时 {took}",
        "good again after {attempts}, {keys}, took {took}",
    ),
    "server": ("服务器：{server}", "server: {server}"),
    "when": ("时间：{at}，读取 {reads} 次，用时 {took}", "time: {at}, {english_reads}, took {took}"),
    "since": ("首次失败：{at}，已连续失败 {failures} 次", "failing since {at}, {failures} runs in a row"),
    "keys": ("异常键：", "bad keys:"),
    "more": ("…… 共 {total} 个", "… {total} in all"),
    "tried": ("重启尝试：", "restart attempts:"),
    "lasted": (
        "已恢复正常，故障持续 {lasted}，共失败 {failures} 次",
        "is well again after {lasted} and {failed_runs}",
    ),
    "number": ("编号 {id}，第 {notices} 次通知", "incident {id}, notice {notices}"),
    "id": ("编号 {id}", "incident {id}"),
    "description": ("Redis 数据检查 {check}", "Redis data check {check}"),
}


def reason(bad: KeyProblem, language: Language) -> str:
    """The problem of a key, without the key's name."""
    keys = counted(int(bad.found), "key") if bad.found.isdigit() else ""
    return say(_REASONS, bad.code, language, found=bad.found, wanted=bad.wanted, left=bad.left, keys=keys)


def summary(outcome: Outcome, language: Language) -> str:
    """The outcome of a check on one line, without the check's name."""
    count, took = len(outcome.attempts), span(outcome.duration_s)
    if outcome.ok:
        word = "good_again" if count else "good"
        keys = _counted(outcome.reading.keys, "key", language)
        return say(_WORDS, word, language, keys=keys, took=took, attempts=_counted(count, "attempt", language))
    done = "not_attempted" if not count else "read_again_failed" if _only_read_again(outcome) else "attempts_failed"
    failed = say(
        _WORDS, done, language, count=count, times=counted(count, "time"), attempts=_counted(count, "attempt", language)
    )
    return what_is_wrong(outcome, language) + ("，" if language == "zh" else "; ") + failed


def _only_read_again(outcome: Outcome) -> bool:
    return all(attempt.how == "read_again" for attempt in outcome.attempts)


def what_is_wrong(outcome: Outcome, language: Language) -> str:
    """The problem that a bad read found, without the restart attempts."""
    reading = outcome.reading
    if reading.trouble is not None:
        return trouble(reading.trouble, outcome.server, language)
    first = reading.bad[0]
    example = f"{clip(first.key, 80)} {reason(first, language)}"
    bad_keys, patterns = reading.bad_total - reading.bad_patterns, _counted(reading.bad_patterns, "pattern", language)
    keys = _counted(reading.keys, "key", language)
    word = "bad_keys" if not reading.bad_patterns else "bad_both" if bad_keys else "bad_patterns"
    return say(_WORDS, word, language, total=bad_keys, keys=keys, patterns=patterns, example=example)


def attempt_text(attempt: Attempt, language: Language) -> str:
    """A restart attempt and its result."""
    said = f": {attempt.said}" if attempt.said else ""
    return say(_ATTEMPTS, attempt.how, language, action=attempt.action, detail=attempt.detail) + said


def _counted(count: int, noun: str, language: Language) -> str:
    zh, one, many = _NOUNS[noun]
    return f"{count} {zh}" if language == "zh" else f"{count} {one if count == 1 else many}"


def row(outcome: Outcome, *, language: Language, log_path: str, at: datetime) -> Row:
    """The row for ``task_monitor``; ``at`` is the host's local time, as the users' own scripts write it."""
    return Row(
        run_id=outcome.run_id,
        ok=outcome.ok,
        task_description=say(_WORDS, "description", language, check=outcome.check),
        task_command=shlex.join(["restart-guard", "check-redis", outcome.check]),
        task_execution_time=at.strftime("%Y-%m-%d %H:%M:%S"),
        log_path=log_path,
        attempts=len(outcome.attempts),
        duration=round(outcome.duration_s, 3),
        host=outcome.host,
        detail=summary(outcome, language),
    )


def notice(outcome: Outcome, incident: Incident, kind: Notice, *, language: Language, at: datetime) -> str:
    """The text of an alert, a repeat or a recovery. Its first line alone says what broke, where and how badly.

    At most TEXT_LIMIT bytes; only the list of keys and attempts is cut. ``at`` is local and aware.
    """
    head = headline(outcome, incident, kind, language=language, at=at)
    since = incident.opened_at.astimezone(at.tzinfo)
    lines = [
        head,
        say(_WORDS, "server", language, server=clip(outcome.server, _FIELD_LIMIT)),
        say(
            _WORDS,
            "when",
            language,
            at=moment(at),
            reads=outcome.reads,
            english_reads=counted(outcome.reads, "read"),
            took=span(outcome.duration_s),
        ),
    ]
    if kind is not Notice.RECOVERED and incident.failures > 1:
        lines.append(say(_WORDS, "since", language, at=moment(since), failures=incident.failures))
    number = "id" if kind is Notice.RECOVERED else "number"
    tail = say(_WORDS, number, language, id=incident.id, notices=incident.notices)
    return fit("\n".join(lines) + "\n", "".join(f"{line}\n" for line in _particulars(outcome, language)), tail)


def subject(outcome: Outcome, language: Language) -> str:
    return say(_WORDS, "subject", language, check=clip(outcome.check, 80))


def headline(outcome: Outcome, incident: Incident, kind: Notice, *, language: Language, at: datetime) -> str:
    if kind is Notice.RECOVERED:
        what = " " + say(_WORDS, "lasted", language, **ended(incident, at))
    else:
        what = ("：" if language == "zh" else ": ") + clip(summary(outcome, language), 400)
    return f"{say(_WORDS, kind.value, language)}{subject(outcome, language)}{what} | {clip(outcome.host, 80)}"


def _particulars(outcome: Outcome, language: Language) -> list[str]:
    """The part of an alert that may be long: the bad keys, then each restart attempt."""
    lines = []
    if outcome.reading.bad:
        lines.append(say(_WORDS, "keys", language))
        shown = outcome.reading.bad[:10]
        lines += [f"- {clip(bad.key, _FIELD_LIMIT)} {reason(bad, language)}" for bad in shown]
        if outcome.reading.bad_total > len(shown):
            lines.append(say(_WORDS, "more", language, total=outcome.reading.bad_total))
    if outcome.attempts and not _only_read_again(outcome):
        lines.append(say(_WORDS, "tried", language))
        lines += [
            f"{number}. {clip(attempt_text(done, language), 300)}" for number, done in enumerate(outcome.attempts, 1)
        ]
    return lines
