"""Who knows about an open incident: repeats stop until it is well again. Of one incident the last word counts."""

from collections.abc import Mapping

import msgspec

from restart_guard.journal.journal import Journal

_FACT = "acks"


class Ack(msgspec.Struct, frozen=True):
    """``incident`` is its number, ``at`` an ISO 8601 time in UTC."""

    incident: str
    who: str
    why: str
    at: str

    @property
    def text(self) -> str:
        return f"acknowledged by {self.who}" + (f": {self.why}" if self.why else "")


def current(journal: Journal) -> Mapping[tuple[str, str], Ack]:
    """The acknowledged incidents that are still open, by kind and subject. Raises JournalError."""
    kept = journal.recall(_FACT)
    if kept is None:
        return {}
    found = msgspec.json.decode(kept, type=dict[str, Ack])
    open_ones = {}
    for name, ack in found.items():
        kind, _, subject = name.partition(":")
        incident = journal.incident(kind, subject)
        if incident is not None and incident.id == ack.incident:
            open_ones[kind, subject] = ack
    return open_ones


def acknowledge(journal: Journal, subject: tuple[str, str], ack: Ack) -> None:
    """Keep it; only inside a transaction. Raises JournalError."""
    kept = {":".join(name): known for name, known in current(journal).items()}
    kept[":".join(subject)] = ack
    journal.remember(_FACT, msgspec.json.encode(kept).decode())
