"""One finding of the doctor: a state, and what to do."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """One thing that was checked; ``advice`` is empty if all is well."""

    level: Level
    what: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:<5} {self.what}" + (f" → {self.advice}" if self.advice else "")


def shown(finding: Finding) -> Mapping[str, str]:
    """The object of ``doctor --json``."""
    return {"status": finding.level.value, "what": finding.what, "advice": finding.advice}
