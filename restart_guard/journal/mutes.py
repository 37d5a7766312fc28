"""Of what nothing is sent for a while. It is recorded all the same, and what is still bad at the end is told then."""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

import msgspec

from restart_guard import clock
from restart_guard.journal.journal import Journal

EVERYTHING = "*"
HELD = "muted"
"""The error of a delivery that has been held back."""

NOT_SENT = "not sent, it was muted"
"""The note of one that was no news any more at the end."""

_FACT = "mutes"


class Mute(msgspec.Struct, frozen=True):
    """``until`` is an ISO 8601 time in UTC."""

    until: str
    who: str
    why: str

    @property
    def text(self) -> str:
        until = f"{datetime.fromisoformat(self.until).astimezone():%m-%d %H:%M}"
        return f"muted until {until} by {self.who}" + (f": {self.why}" if self.why else "")


def current(journal: Journal) -> dict[str, Mute]:
    """By ``kind:subject``, or EVERYTHING. One whose end is over is none. Raises JournalError."""
    kept = journal.recall(_FACT)
    if kept is None:
        return {}
    now = clock.stamp(clock.now())
    return {name: mute for name, mute in msgspec.json.decode(kept, type=dict[str, Mute]).items() if mute.until > now}


def of(mutes: Collection[str], kind: str, subject: str) -> bool:
    return EVERYTHING in mutes or f"{kind}:{subject}" in mutes


def begin(journal: Journal, names: Iterable[str], seconds: float, who: str, why: str) -> Mute:
    """Only inside a transaction. Raises JournalError."""
    mute = Mute(clock.stamp(clock.now() + timedelta(seconds=seconds)), who, why)
    _keep(journal, current(journal) | dict.fromkeys(names, mute))
    return mute


def end(journal: Journal, names: Collection[str]) -> list[str]:
    """Those of these that were muted; only inside a transaction. Raises JournalError."""
    known = current(journal)
    _keep(journal, {name: mute for name, mute in known.items() if name not in names})
    return [name for name in known if name in names]


def _keep(journal: Journal, mutes: dict[str, Mute]) -> None:
    journal.remember(_FACT, msgspec.json.encode(mutes).decode())
