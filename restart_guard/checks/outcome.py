"""The result of a read of Redis and the outcome of a check, as values."""

from datetime import datetime
from typing import NamedTuple

from restart_guard.errors import Remedy, StoreError


class KeyProblem(NamedTuple):
    """A key that is not as it should be. The last three are short texts that need no translation (``2d3h``,
    ``hash``)."""

    key: str
    code: str
    found: str = ""
    wanted: str = ""
    left: str = ""


class Reading(NamedTuple):
    """One read of a check's data.

    ``bad`` holds the first of ``bad_total`` problems, ``codes`` all their kinds, ``trouble`` the error that ended the
    read. Of the problems ``bad_patterns`` are patterns that match too little, the others are keys. ``least_ttl_s`` is
    the least TTL among the keys, None if no key has one or none was looked at; ``size`` is in bytes or members, of all
    keys; ``took_s`` is for this read alone.
    """

    keys: int
    bad: tuple[KeyProblem, ...] = ()
    bad_total: int = 0
    trouble: StoreError | None = None
    codes: frozenset[str] = frozenset()
    bad_patterns: int = 0
    least_ttl_s: float | None = None
    size: int = 0
    took_s: float = 0.0

    @property
    def good(self) -> bool:
        return not self.bad_total and self.trouble is None

    @property
    def remedy(self) -> Remedy:
        """The remedy that may help after a bad read.

        Restarting the program that fills Redis cannot change a key's type, so data that is bad only by type needs a
        person.
        """
        if self.trouble is not None:
            return self.trouble.remedy
        return Remedy.PERSON if self.codes and self.codes <= {"type", "persistence"} else Remedy.RETRY


class Attempt(NamedTuple):
    """One restart attempt, between two reads: ``action`` is what was done, ``how`` a code for its result.

    ``detail`` needs no translation (an exit status, a duration); ``said`` is the end of a command's output.
    """

    action: str
    how: str
    detail: str = ""
    said: str = ""

    @property
    def ok(self) -> bool:
        return (self.how, self.detail) == ("exited", "0") or self.how in (
            "read_again",
            "ready",
            "restarted",
            "refreshed",
        )


class Outcome(NamedTuple):
    """The outcome of one run of a check."""

    run_id: str
    check: str
    started_at: datetime
    duration_s: float
    reading: Reading
    attempts: tuple[Attempt, ...]
    server: str
    host: str

    @property
    def ok(self) -> bool:
        return self.reading.good

    @property
    def status(self) -> str:
        return "success" if self.ok else "failure"

    @property
    def reads(self) -> int:
        return 1 + len(self.attempts)
