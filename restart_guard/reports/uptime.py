"""For how much of a time each target was up, and each check good."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from restart_guard import clock
from restart_guard.config.options import Config
from restart_guard.journal import spans
from restart_guard.journal.journal import KEEP_EVENTS, Event, Journal, Wanted
from restart_guard.journal.spans import Span, Uptime
from restart_guard.programs import events

_BARS = "▁▂▃▄▅▆▇█"
_NOBODY_KNOWS = "·"


class Row(NamedTuple):
    """The uptime of a target or check."""

    kind: str
    name: str
    uptime: Uptime

    def shown(self) -> dict[str, Any]:
        """The object of ``history --uptime --json``; times in seconds."""
        found = self.uptime
        return {
            self.kind: self.name,
            "since": _shown(found.since),
            "until": _shown(found.until),
            "up_s": round(found.up_s, 1),
            "down_s": round(found.down_s, 1),
            "unknown_s": round(found.unknown_s, 1),
            "outages": found.outages,
            "longest_s": round(found.longest_s, 1),
            "percent": None if found.percent is None else round(found.percent, 4),
        }


def rows(config: Config, journal: Journal, days: float) -> list[Row]:
    """All targets and checks of the config. Raises JournalError."""
    until = clock.now()
    since = until - timedelta(days=days)
    past = spans.read(journal, events.KIND)
    found = [Row("target", name, spans.uptime(past.get(name, []), _s(since), _s(until))) for name in config.targets]
    for name in config.checks:
        outcomes = journal.outcomes(Wanted(kind="check", subject=name), limit=KEEP_EVENTS)
        found.append(Row("check", name, spans.uptime(of_outcomes(outcomes, until), _s(since), _s(until))))
    return found


def of_outcomes(outcomes: Sequence[Event], until: datetime) -> list[Span]:
    """What a check found holds until it looks again."""
    ends = [*(_s(one.at) for one in outcomes[1:]), _s(until)]
    return [
        Span("running" if one.status == "success" else "dead", _s(one.at), max(_s(one.at), end))
        for one, end in zip(outcomes, ends, strict=False)  # without outcomes there is one end too many
    ]


def sparkline(bars: Sequence[float | None]) -> str:
    """A bar for each part, a dot where nobody knows. Anything less than all is seen."""
    return "".join(_NOBODY_KNOWS if bar is None else _BARS[7 if bar >= 1 else min(6, int(bar * 7))] for bar in bars)


def percent(share: float | None) -> str:
    """Rounded down, so that 100% means that nothing was missed."""
    return "–" if share is None else f"{int(share * 1000) / 1000:.3f}".rstrip("0").rstrip(".") + "%"


def _s(moment: datetime) -> float:
    return moment.timestamp()


def _shown(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(timespec="seconds")
