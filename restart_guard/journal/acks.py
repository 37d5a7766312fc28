"""Who knows about an open incident: repeats stop until it is well again. Of one incident the last word counts."""

import os
from collections.abc import Mapping

import msgspec

from restart_guard import clock
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


def acknowledge(journal: Journal, kind: str, subject: str, incident: str, why: str) -> Ack:
    """Keep it; only inside a transaction. Raises JournalError."""
    ack = Ack(incident, _who(), why, clock.stamp(clock.now()))
    kept = {f"{one}:{name}": known for (one, name), known in current(journal).items()}
    kept[f"{kind}:{subject}"] = ack
    journal.remember(_FACT, msgspec.json.encode(kept).decode())
    return ack


def _who() -> str:
    """The person behind sudo, if there is one."""
    # Only here, and an idle tick reads acknowledgements.
    import getpass

    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        return str(os.getuid())
