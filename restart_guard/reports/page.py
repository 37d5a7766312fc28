"""The page: one file that shows everything, for a browser that has nothing but this file.

No asset from elsewhere, one line of script (the red band when the page is old), and a content security policy that
allows exactly that line and the style sheet, by their hashes. Whatever comes from outside is escaped.
"""

import signal
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from restart_guard.alerts.wording import Language, clip, say
from restart_guard.config.options import Config
from restart_guard.durations import span
from restart_guard.journal import spans
from restart_guard.journal.journal import Event
from restart_guard.journal.spans import Span
from restart_guard.programs.crashes import Death
from restart_guard.programs.messages import how_it_died
from restart_guard.reports import overview, svg
from restart_guard.reports.page_style import POLICY, SCRIPT, STYLE
from restart_guard.reports.page_words import STATES, WORDS
from restart_guard.reports.summary import JobState, Summary, TargetState, field
from restart_guard.reports.svg import Cell, Point, escape
from restart_guard.reports.uptime import percent

_DAY_S = 86400.0
_LATE = timedelta(minutes=2)
_LONGEST = 300
_MANY = 20  # targets; with more of them the bars are coarser, so that the page stays small


class Past(NamedTuple):
    """Events, newest first: the last ones of all, and the takeovers of this host's group."""

    events: Sequence[Event] = ()
    takeovers: Sequence[Event] = ()


def html(config: Config, state: Summary, past: Past) -> str:
    """The whole page, in UTF-8."""
    return "".join(_Page(config, state, past).parts())


class _Page:
    def __init__(self, config: Config, state: Summary, past: Past) -> None:
        self._config = config
        self._state = state
        self._past = past
        self._language: Language = config.language
        self._words = {name: say(WORDS, name, self._language) for name in ("up", "aside", "unseen")}

    def _say(self, name: str, **values: Any) -> str:
        return escape(say(WORDS, name, self._language, **values))

    def _text(self, text: str) -> str:
        """Something from outside: redacted, cut, escaped, and a direction of its own (``bdi``)."""
        return f"<bdi>{escape(clip(self._config.redact(text), _LONGEST))}</bdi>"

    def _time(self, moment: datetime) -> str:
        return f"{moment.astimezone():%m-%d %H:%M:%S}"

    def _day(self, moment: datetime) -> str:
        return f"{moment.astimezone():%m-%d %H:%M}"

    def parts(self) -> Iterator[str]:
        lines = overview.lines(self._state)
        worst = lines[0].level if lines else overview.OK
        host = self._state.host
        now = self._state.now
        interval = _LATE
        if self._state.next_tick is not None and self._state.last_tick is not None:
            interval += self._state.next_tick - self._state.last_tick
        language = "zh-CN" if self._language == "zh" else "en"
        yield f'<!DOCTYPE html><html lang="{language}"><head><meta charset="utf-8">'
        yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
        yield f"<title>{self._say(worst)} · {escape(host)}</title><style>{STYLE}</style></head>"
        yield f'<body data-at="{now.timestamp():.0f}" data-for="{interval.total_seconds():.0f}">'
        yield f'<p id="old" hidden>{self._say("old")}</p>'
        yield f'<header class="{worst}"><h1>{self._say(worst)}</h1>'
        yield f"<p>{self._text(host)} · {self._text(str(self._config.path))}"
        yield f" · {self._say('written', at=self._time(now))}</p>"
        if self._state.last_tick is not None:
            yield f"<p>{self._say('tick', at=self._time(self._state.last_tick))}</p>"
        yield "</header><main>"
        yield from self._troubles(lines)
        yield from self._targets()
        yield from self._checks()
        yield from self._refreshes()
        yield from self._deliveries()
        yield from self._group()
        yield from self._runs()
        yield from self._history()
        yield f"</main><script>{SCRIPT}</script></body></html>\n"

    def _section(self, name: str, rows: Sequence[str]) -> Iterator[str]:
        if rows:
            yield f"<section><h2>{self._say(name)}</h2>"
            yield from rows
            yield "</section>"

    def _troubles(self, lines: Sequence[overview.Line]) -> Iterator[str]:
        rows = []
        for line in lines:
            if line.level == overview.OK:
                continue
            at = "" if line.at is None else f" <time>{self._time(line.at)}</time>"
            command = line.command(self._config.path)
            typed = "" if command is None else f"<code>{self._text(command)}</code>"
            text = self._text(line.text + line.then)
            rows.append(f'<div class="row {line.level}"><b>{self._text(line.what)}</b> {text}{at}{typed}</div>')
        yield from self._section("troubles", rows)

    def _targets(self) -> Iterator[str]:
        yield from self._section("targets", [self._target(target) for target in self._state.targets])

    def _target(self, target: TargetState) -> str:
        level = "fail" if target.state in spans.DOWN | {"unknown"} else "ok"
        how = escape(say(STATES, target.state, self._language))
        facts = [f'<b>{self._text(target.name)}</b> <span class="{level}">{how}</span>']
        since = target.started if target.state in spans.UP else target.since
        if since is not None:
            facts.append(self._say("since", at=self._time(since)))
        if target.next_try_s is not None:
            facts.append(self._say("next_try", wait=span(target.next_try_s)))
        facts.append(self._say("relaunches", count=target.totals.relaunches))
        if target.last_death is not None:
            died = target.last_death
            facts.append(f"{self._say('last_death', at=self._time(died.at))} {self._text(self._how(died))}")
        if target.why:
            facts.append(self._text(target.why))
        hours, days = (48, 90) if len(self._state.targets) <= _MANY else (24, 30)
        bars = [self._bar(target.spans, "day", _DAY_S, hours), self._bar(target.spans, "quarter", 90 * _DAY_S, days)]
        return f'<div class="row">{" · ".join(facts)}<div class="bars">{"".join(bars)}</div></div>'

    def _how(self, died: Event) -> str:
        """How it died, in the page's language where the event tells it by numbers."""
        lived, status, name = (field(died, part) for part in ("lived_s", "exit_status", "signal"))
        if lived is None:
            return died.detail.removeprefix("died: ")
        number = getattr(signal, name, None) if name is not None else None
        known = status if status is not None else -number if number is not None else None
        return how_it_died(Death(known, lived, is_seen=bool(field(died, "is_seen"))), self._language)

    def _bar(self, past: Sequence[Span], name: str, length_s: float, parts: int) -> str:
        """Per cent, and a bar with a part for each equal share of the time."""
        until = self._state.now.timestamp()
        begin, step = until - length_s, length_s / parts
        whole = spans.uptime(past, begin, until, parts=1)
        ends = [one.until for one in past]
        cells: list[Cell] = []
        while len(cells) < parts:
            since = begin + len(cells) * step
            first = bisect_right(ends, since)
            if first < len(past) and past[first].state in spans.UP and past[first].since <= since:
                whole_cells = int((past[first].until - since) / step)  # of which nothing else is to be told
                cells += [Cell("up", self._words["up"])] * min(whole_cells, parts - len(cells))
                if whole_cells:
                    continue
            last = bisect_right(ends, since + step, first)
            cells.append(self._cell(past[first : last + 1], since, step))
        label = self._say(name, percent=percent(whole.percent), outages=whole.outages)
        return f"<figure><figcaption>{label}</figcaption>{svg.bar(cells)}</figure>"

    def _cell(self, past: Sequence[Span], since: float, step: float) -> Cell:
        """``past`` are the spans that may reach into it."""
        near = [one for one in past if one.since < since + step]
        if not near:
            return Cell("unseen", self._words["unseen"])
        if len(near) == 1 and near[0].state in spans.UP:
            return Cell("up", self._words["up"])
        part = spans.uptime(near, since, since + step, parts=1)
        if part.up_s + part.down_s == 0:
            aside = any(one.state in spans.NOT_MEANT_TO_RUN for one in near)
            kind = "aside" if aside else "unseen"
            return Cell(kind, self._words[kind])
        if part.down_s == 0:
            return Cell("up", self._words["up"])
        at = f"{datetime.fromtimestamp(since, self._state.now.tzinfo).astimezone():%m-%d %H:%M}"
        words = say(WORDS, "down", self._language, at=at, down=span(part.down_s))
        return Cell("down" if part.down_s > part.up_s else "partly", words)

    def _checks(self) -> Iterator[str]:
        jobs = [job for job in self._state.jobs if job.kind == "check"]
        yield from self._section("checks", [self._job(job, self._check_plots(job)) for job in jobs])

    def _refreshes(self) -> Iterator[str]:
        jobs = [job for job in self._state.jobs if job.kind == "refresh"]
        yield from self._section("refreshes", [self._job(job, self._drift_plot(job)) for job in jobs])

    def _job(self, job: JobState, plots: Sequence[str]) -> str:
        facts = [f"<b>{self._text(job.name)}</b>"]
        last = job.last
        if last is None:
            facts.append(self._say("never"))
        else:
            level = "ok" if last.status == "success" else "fail"
            facts.append(
                f'<span class="{level}">{self._say(last.status)}</span> {self._time(last.at)} {self._text(last.detail)}'
            )
        if job.next_run is not None:
            facts.append(self._say("next_run", at=f"{job.next_run:%m-%d %H:%M}"))
        drawn = f'<div class="bars">{"".join(plots)}</div>' if plots else ""
        return f'<div class="row">{" · ".join(facts)}{drawn}</div>'

    def _check_plots(self, job: JobState) -> list[str]:
        left = [
            Point(one.at.timestamp(), ttl, f"{self._day(one.at)} {span(ttl)}", one.status == "success")
            for one in job.outcomes
            if (ttl := field(one, "least_ttl_s")) is not None
        ]
        took = [
            Point(one.at.timestamp(), ms / 1000, f"{self._day(one.at)} {span(ms / 1000)}", one.status == "success")
            for one in job.outcomes
            if (ms := field(one, "read_ms")) is not None
        ]
        needed = None
        if job.next_run is not None and job.last is not None:
            needed = max(0.0, (job.next_run - job.last.at).total_seconds())
        plots = []
        if left:
            words = say(WORDS, "needed", self._language, ttl=span(needed or 0))
            label = self._say("ttl_left", ttl=span(left[-1].value))
            plots.append(self._figure(label, svg.plot(left, dashed=needed, dashed_title=words)))
        if took:
            label = self._say("read_time", time=span(took[-1].value))
            plots.append(self._figure(label, svg.plot(took)))
        return plots

    def _drift_plot(self, job: JobState) -> list[str]:
        points = []
        for one in job.outcomes:
            counts = [field(one, name) for name in ("added", "changed", "removed", "unchanged")]
            if None in counts or not sum(counts):
                continue
            share = sum(counts[:3]) / sum(counts)
            points.append(Point(one.at.timestamp(), share, f"{self._day(one.at)} {share:.1%}", one.status == "success"))
        if not points:
            return []
        most = float(self._config.refreshes[job.name].max_change)
        label = self._say("drift", share=f"{points[-1].value:.1%}")
        words = f"max_change {most:.0%}"
        return [self._figure(label, svg.plot(points, dashed=most, dashed_title=words))]

    @staticmethod
    def _figure(label: str, drawn: str) -> str:
        return f"<figure><figcaption>{label}</figcaption>{drawn}</figure>"

    def _deliveries(self) -> Iterator[str]:
        rows = []
        for name, one in self._state.waiting.items():
            error = f" {self._text(one.error)}" if one.error else ""
            words = self._say("waiting", count=one.pending + one.blocked, at=self._time(one.oldest))
            rows.append(f'<div class="row"><b>{self._text(name)}</b> {words}{error}</div>')
        yield from self._section("deliveries", rows)

    def _group(self) -> Iterator[str]:
        if self._state.group is None:
            return
        rows = [f'<div class="row">{self._text(self._state.group)}</div>']
        rows += [self._event(one) for one in self._past.takeovers]
        yield from self._section("group", rows)

    def _runs(self) -> Iterator[str]:
        due = sorted((job.next_run, job) for job in self._state.jobs if job.next_run is not None)
        rows = [
            f'<div class="row"><time>{at:%Y-%m-%d %H:%M}</time> {escape(job.kind)} {self._text(job.name)}</div>'
            for at, job in due
        ]
        yield from self._section("runs", rows)

    def _history(self) -> Iterator[str]:
        yield from self._section("history", [self._event(one) for one in self._past.events])

    def _event(self, one: Event) -> str:
        level = "ok" if one.status == "success" else "fail"
        what = f"{escape(one.kind)} {self._text(one.subject)}"
        return f'<div class="row {level}"><time>{self._time(one.at)}</time> {what} {self._text(one.detail)}</div>'
