"""The texts about refreshes, in Chinese and English: results, rows, alerts. Pure: values in, text out."""

import shlex
from datetime import datetime
from typing import NamedTuple

from restart_guard.alerts.wording import Language, clip, fit, moment, say
from restart_guard.counts import counted
from restart_guard.durations import span
from restart_guard.errors import GuardError, RefreshError, StoreError
from restart_guard.journal.incident import Incident, Notice, ended
from restart_guard.mysql.table import Row
from restart_guard.redis_server.wording import trouble
from restart_guard.refreshes.mapping import Drift, Example

# Why a refresh was refused or failed. In each of these cases the old data is unchanged.
_REASONS: dict[str, tuple[str, str]] = {
    "empty": (
        '查询没有返回任何行，旧数据保持不变（on_empty = "clear" 可允许清空）',
        'the query returned no row; the old data stays (on_empty = "clear" would clear it)',
    ),
    "drift": (
        "变化 {share} 超过 max_change {most}（新增 {added}，变化 {changed}，减少 {removed}），旧数据不变；可用 --force",
        (
            "{share} differs, max_change is {most}: {added} new, {changed} changed, {removed} gone; "
            "the old data stays, --force replaces it"
        ),
    ),
    "other_type": (
        "键 {key} 是 {found}，不是 {wanted}；旧数据保持不变，--force 可替换",
        "the key {key} is a {found}, not a {wanted}; it stays, --force replaces it",
    ),
    "columns": ("查询的列是 {found}，应为 {wanted}", "the query returned the columns {found}, expected {wanted}"),
    "field": ("查询没有列 {field}，只有 {found}", "the query has no column {field} for the key, only {found}"),
    "null": ("列 {column} 含有 NULL，请用 COALESCE", "the column {column} contains NULL; use COALESCE"),
    "not_text": ("列 {column} 的值不是 UTF-8 文本", "the column {column} contains a value that is not UTF-8 text"),
    "number": ("分数不是数字（{first}-{last}）", "a score is not a number ({first}-{last})"),
    "duplicate": (
        "{name} 出现不止一次，请用 GROUP BY 或 DISTINCT",
        "the query returned {name} more than once: use GROUP BY or DISTINCT, or ORDER BY to keep a key's rows together",
    ),
    "many_rows": ("键 {key} 有不止一行", "the key {key} has more than one row"),
    "large": ("有一个值为 {size} 字节，Redis 最多 {most}", "a value has {size} bytes; Redis accepts at most {most}"),
    "memory": (
        "Redis 内存不足以再放一份 {key}（约 {need} 字节）",
        "Redis has no room for a second {key} (about {need} bytes) and would evict other data",
    ),
    "superseded": (
        "另一台主机已开始刷新 {key}",
        "another refresh of {key} has begun, perhaps on another host; this one was stopped",
    ),
    "lost": ("临时键在完成前丢失", "the temporary key disappeared before the end: is memory short, or was it deleted?"),
    "moved": (
        "查询第二次返回的行不同，请去掉 RAND()、NOW() 等或加 ORDER BY",
        "the query returned other rows the second time: does it use RAND(), NOW(), or LIMIT without ORDER BY?",
    ),
    "is_index": ("一行的键就是索引 {key}", "a row's key is the index {key} itself: choose another name for the index"),
    "twice": ("列 {column} 出现两次，请用 AS", "the query has the column {column} twice; use AS to rename one"),
    "cut": (
        "服务器截断了查询结果，未写入：{text}",
        "the server cut a value, nothing was written: {text}",
    ),
    "no_rows": ("查询没有返回结果集", "the query has no result set: expected a plain SELECT"),
    "index": (
        "索引键 {key} 不是本刷新所建，未执行；请改用别的名称，或确认后删除它",
        "the index {key} was not created by this refresh; nothing was done: choose another name, or delete the old key",
    ),
}

_WORDS: dict[str, tuple[str, str]] = {
    "first": ("【故障】", "[DOWN] "),
    "repeat": ("【仍未恢复】", "[STILL DOWN] "),
    "recovered": ("【恢复】", "[UP] "),
    "subject": ("Redis 刷新 {name}", "Redis refresh {name}"),
    "good": (
        "{rows} 行：新增 {added}，变化 {changed}，删除 {removed}，未变 {unchanged}，用时 {took}",
        "{english_rows}: {added} added, {changed} changed, {removed} removed, {unchanged} unchanged, took {took}",
    ),
    "dry": (
        "{rows} 行：将新增 {added}，变化 {changed}，删除 {removed}，未变 {unchanged}，用时 {took}",
        "{english_rows}: would add {added}, change {changed}, remove {removed}, {unchanged} unchanged, took {took}",
    ),
    "server": ("服务器：{server}", "server: {server}"),
    "when": ("时间：{at}，用时 {took}", "time: {at}, took {took}"),
    "since": ("首次失败：{at}，已连续失败 {failures} 次", "failing since {at}, {failures} runs in a row"),
    "lasted": (
        "已恢复正常，故障持续 {lasted}，共失败 {failures} 次",
        "is well again after {lasted} and {failed_runs}",
    ),
    "number": ("编号 {id}，第 {notices} 次通知", "incident {id}, notice {notices}"),
    "id": ("编号 {id}", "incident {id}"),
    "description": ("Redis 数据刷新 {name}", "Redis data refresh {name}"),
    "new": ("（新）", "(new)"),
    "gone": ("（已删除）", "(gone)"),
}


class Refreshed(NamedTuple):
    """The outcome of one run of a refresh. ``error`` is None if all is in place, or was only compared."""

    run_id: str
    name: str
    started_at: datetime
    duration_s: float
    rows: int
    drift: Drift
    error: GuardError | None
    server: str
    host: str
    dry_run: bool = False
    refusal: GuardError | None = None
    is_room_known: bool = True

    @property
    def ok(self) -> bool:
        return self.error is None


def reason(error: GuardError, server: str, language: Language) -> str:
    """Why it failed."""
    if isinstance(error, RefreshError):
        return say(_REASONS, error.code, language, **error.values)
    if isinstance(error, StoreError):
        return trouble(error, server, language)
    return str(error).rstrip(".")


def summary(done: Refreshed, language: Language) -> str:
    """The outcome of a refresh on one line, without its name."""
    if done.error is not None:
        return clip(reason(done.error, done.server, language), 600)
    counts = done.drift._asdict() | {
        "rows": done.rows,
        "english_rows": counted(done.rows, "row"),
        "took": span(done.duration_s),
    }
    return say(_WORDS, "dry" if done.dry_run else "good", language, **counts)


def example(difference: Example, language: Language) -> str:
    """``42: 3 → 5``, ``43: 1 (new)``"""
    if difference.was is not None and difference.now is not None:
        return clip(f"{difference.name}: {difference.was} → {difference.now}", 200)
    value = difference.was or difference.now
    word = say(_WORDS, "new" if difference.was is None else "gone", language)
    return clip(f"{difference.name}{f': {value}' if value else ''} {word}", 200)


def subject(done: Refreshed, language: Language) -> str:
    return say(_WORDS, "subject", language, name=clip(done.name, 80))


def row(done: Refreshed, *, language: Language, log_path: str, at: datetime) -> Row:
    """The row for ``task_monitor``; ``at`` is the host's local time."""
    return Row(
        run_id=done.run_id,
        ok=done.error is None,
        task_description=say(_WORDS, "description", language, name=done.name),
        task_command=shlex.join(["restart-guard", "refresh", done.name]),
        task_execution_time=at.strftime("%Y-%m-%d %H:%M:%S"),
        log_path=log_path,
        attempts=0,
        duration=round(done.duration_s, 3),
        host=done.host,
        detail=summary(done, language),
    )


def notice(done: Refreshed, incident: Incident, kind: Notice, *, language: Language, at: datetime) -> str:
    """The text of an alert, a repeat or a recovery. Its first line alone says what broke, where and how."""
    if kind is Notice.RECOVERED:
        what = " " + say(_WORDS, "lasted", language, **ended(incident, at))
    else:
        what = ("：" if language == "zh" else ": ") + clip(summary(done, language), 400)
    head = f"{say(_WORDS, kind.value, language)}{subject(done, language)}{what} | {clip(done.host, 80)}"
    lines = [head, say(_WORDS, "server", language, server=clip(done.server, 160))]
    lines.append(say(_WORDS, "when", language, at=moment(at), took=span(done.duration_s)))
    if kind is not Notice.RECOVERED and incident.failures > 1:
        since = incident.opened_at.astimezone(at.tzinfo)
        lines.append(say(_WORDS, "since", language, at=moment(since), failures=incident.failures))
    tail = "id" if kind is Notice.RECOVERED else "number"
    examples = "".join(f"- {example(one, language)}\n" for one in done.drift.examples)
    return fit("\n".join(lines) + "\n", examples, say(_WORDS, tail, language, id=incident.id, notices=incident.notices))
