"""How each target was, run-length coded: a span is a state and the time in which it was seen.

Each look extends the newest span of a target, or opens the next. A change between two looks counts from the middle of
them; a watch tells the moment of a death and of the relaunch. If nobody looked for longer than a tick may be late, that
time stays a gap.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from restart_guard.journal.journal import Journal, Totals

UP = frozenset({"running", "unguarded"})
DOWN = frozenset({"dead", "backoff"})
NOT_MEANT_TO_RUN = frozenset({"stopped", "standby"})
_LATE_S = 600.0
_GAP_S = 150.0  # a tick each minute, or a watch's look each two minutes, and a machine that is busy


class Span(NamedTuple):
    """A state, and the first and last moment in which it was seen: seconds since 1970."""

    state: str
    since: float
    until: float


class Uptime(NamedTuple):
    """The seconds of a window in which a target was up, was down, and in which nobody knows; not those in which it was
    not meant to run. ``longest_s`` is the longest outage. ``bars`` are the shares of equal parts of the window: up of
    what is known, None for a part of which nothing is."""

    since: float
    until: float
    up_s: float = 0.0
    down_s: float = 0.0
    unknown_s: float = 0.0
    outages: int = 0
    longest_s: float = 0.0
    bars: tuple[float | None, ...] = ()

    @property
    def percent(self) -> float | None:
        known = self.up_s + self.down_s
        return 100 * self.up_s / known if known else None


def look(journal: Journal, kind: str, states: Mapping[str, str], at: float, *, is_exact: bool = False) -> None:
    """Note how subjects were seen at a moment; ``is_exact``: a change is of this moment. Only inside a transaction.
    Raises JournalError."""
    rows = journal.run("SELECT subject, state, since, until FROM newest_spans WHERE kind = ?", kind).fetchall()
    newest = {str(subject): Span(state, since, until) for subject, state, since, until in rows}
    same: list[str] = []
    for subject, state in states.items():
        last = newest.get(subject)
        if last is not None and 0 < last.until - at <= _LATE_S:
            continue  # of a job that looked before somebody else and took its time; or the clock was set back a bit
        if last is None or not 0 <= at - last.until <= _GAP_S:
            if last is not None:
                _add(journal, kind, subject, last)
            _set_newest(journal, kind, subject, Span(state, at, at))
        elif last.state == state:
            same.append(subject)
            if state in DOWN:
                journal.count(kind, subject, Totals(down_s=at - last.until))
        else:
            middle = at if is_exact else (last.until + at) / 2
            _add(journal, kind, subject, last._replace(until=middle))
            _set_newest(journal, kind, subject, Span(state, middle, at))
            down_s = (middle - last.until) * (last.state in DOWN) + (at - middle) * (state in DOWN)
            if down_s:
                journal.count(kind, subject, Totals(down_s=down_s))
    names = msgspec.json.encode(same).decode()
    journal.run(
        "UPDATE newest_spans SET until = ? WHERE kind = ? AND subject IN (SELECT value FROM json_each(?))",
        *(at, kind, names),
    )


def down(journal: Journal, kind: str, subject: str, since: float, until: float) -> None:
    """Note that a subject was down between two moments that were seen, and runs again; not the time in which it was not
    meant to run. Only inside a transaction. Raises JournalError."""
    spans = [one for one in read(journal, kind, [subject])[subject] if one.until > since]
    since = max([since, *(one.until for one in spans if one.state in NOT_MEANT_TO_RUN)])
    if since >= until:
        return
    known = sum(min(one.until, until) - max(one.since, since) for one in spans if one.state in DOWN)
    journal.count(kind, subject, Totals(down_s=max(0.0, until - since - max(0.0, known))))
    last = _newest(journal, kind, subject)
    journal.run("DELETE FROM spans WHERE kind = ? AND subject = ? AND since >= ?", kind, subject, since)
    # It was alive until then, whatever a look has guessed.
    journal.run(
        "UPDATE spans SET until = ?3, state = CASE WHEN state IN ('dead', 'backoff') THEN 'running' ELSE state END "
        "WHERE kind = ?1 AND subject = ?2 AND until > ?3",
        *(kind, subject, since),
    )
    if last is not None and last.state in DOWN:
        last = last._replace(state="running")
    if last is not None and last.since < since:
        is_gap = since - last.until > _GAP_S
        _add(journal, kind, subject, last if is_gap else last._replace(until=since))
    _add(journal, kind, subject, Span("dead", since, until))
    _set_newest(journal, kind, subject, Span("running", until, until))


def read(journal: Journal, kind: str, subjects: Iterable[str] | None = None) -> dict[str, list[Span]]:
    """The spans of each subject, oldest first; of all subjects that have any, or of these. Raises JournalError."""
    found: dict[str, list[Span]] = {name: [] for name in subjects or ()}
    for table in ("spans", "newest_spans"):
        for name in found if subjects is not None else (None,):
            rows = journal.run(
                f"SELECT subject, state, since, until FROM {table} "  # noqa: S608 (one of two names)
                "WHERE kind = ?1 AND (?2 IS NULL OR subject = ?2) ORDER BY since",
                *(kind, name),
            )
            for subject, *span in rows:
                found.setdefault(str(subject), []).append(Span(*span))
    return found


def uptime(spans: Sequence[Span], since: float, until: float, *, parts: int = 30) -> Uptime:
    """What spans say about a window. It begins with the first span if that is later."""
    since = min(until, max(since, spans[0].since)) if spans else until
    clipped = [
        one._replace(since=max(one.since, since), until=min(one.until, until))
        for one in spans
        if one.until > since and one.since < until
    ]
    up_s = sum(one.until - one.since for one in clipped if one.state in UP)
    down_s = sum(one.until - one.since for one in clipped if one.state in DOWN)
    aside_s = sum(one.until - one.since for one in clipped if one.state in NOT_MEANT_TO_RUN)
    outages = _outages(clipped)
    step = (until - since) / parts if until > since else 0.0
    bars = [_share(clipped, since + number * step, since + (number + 1) * step) for number in range(parts)]
    unknown_s = max(0.0, until - since - up_s - down_s - aside_s)
    return Uptime(since, until, up_s, down_s, unknown_s, len(outages), max(outages, default=0.0), tuple(bars))


def _outages(spans: Sequence[Span]) -> list[float]:
    """The length of each time that something was down without a break."""
    found: list[float] = []
    before: Span | None = None
    for one in spans:
        if one.state in DOWN:
            length = one.until - one.since
            if before is not None and before.state in DOWN and one.since - before.until <= _GAP_S:
                found[-1] += length
            else:
                found.append(length)
        before = one
    return found


def _share(spans: Sequence[Span], since: float, until: float) -> float | None:
    """The share of up in what is known of a part."""
    sums = {True: 0.0, False: 0.0}
    for one in spans:
        if one.state in UP or one.state in DOWN:
            sums[one.state in UP] += max(0.0, min(one.until, until) - max(one.since, since))
    known = sums[True] + sums[False]
    return sums[True] / known if known else None


def _newest(journal: Journal, kind: str, subject: str) -> Span | None:
    row = journal.run(
        "SELECT state, since, until FROM newest_spans WHERE kind = ? AND subject = ?", kind, subject
    ).fetchone()
    return None if row is None else Span(*row)


def _add(journal: Journal, kind: str, subject: str, span: Span) -> None:
    if span.until > span.since:
        journal.run(
            "INSERT INTO spans (kind, subject, state, since, until) VALUES (?, ?, ?, ?, ?)", kind, subject, *span
        )


def _set_newest(journal: Journal, kind: str, subject: str, span: Span) -> None:
    journal.run("INSERT OR REPLACE INTO newest_spans VALUES (?, ?, ?, ?, ?)", kind, subject, *span)
