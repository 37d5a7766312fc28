"""A config with much in it, and a journal with a year of history."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from restart_guard.config import load
from restart_guard.config.options import Config
from restart_guard.journal import spans
from restart_guard.journal.journal import Event, Journal
from restart_guard.journal.spans import Span

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "\u202egnp.exe",
    "长" * 300,
    "<b>&amp;'\"",
    "🙂 x",
]


def config_of(folder: Path, *, targets: int, checks: int, more: str = "") -> Config:
    """The first names of targets and checks are hostile, as far as the config takes them."""
    names = [f"t{number}" for number in range(targets)]
    text = 'state_dir = "state"\n' + more
    text += "".join(f'[targets.{name}]\nprogram = "{name}.sh"\ncommand = "{{program}}"\n' for name in names)
    text += "".join(f'[checks.c{number}]\nkeys = ["k{number}"]\n' for number in range(checks))
    text += '[mysql]\nuser = "u"\ndatabase = "d"\n' if "[mysql]" not in more else ""
    text += '[refreshes.counts]\nquery = "SELECT 1"\nkey = "c"\ntype = "hash"\nschedule = "0 3 * * *"\n'
    (folder / "config.toml").write_text(text)
    return load.load(folder / "config.toml", {})


def fill(config: Config, chance: random.Random, *, days: int = 365) -> None:
    """A past for everything, with texts from outside in it."""
    now = datetime.now(UTC)
    with Journal.open(config.state_dir) as journal, journal.transaction():
        for name in config.targets:
            at = (now - timedelta(days=days)).timestamp()
            for _ in range(chance.choice([0, 3, 12])):
                up = chance.random() * 2 * days * 86400 / 12
                down = chance.random() * 3600
                spans._add(journal, "target", name, Span("running", at, at + up))
                spans._add(journal, "target", name, Span("dead", at + up, at + up + down))
                at += up + down
                if at > now.timestamp() - 7200:
                    break
            spans._set_newest(journal, "target", name, Span("running", min(at, now.timestamp() - 60), now.timestamp()))
        for number, name in enumerate([*config.checks, "counts"]):
            kind = "check" if name != "counts" else "refresh"
            for week in range(52):
                ok = chance.random() > 0.1
                data = {
                    "least_ttl_s": 600000.0 + chance.random() * 1000,
                    "read_ms": chance.randrange(5000),
                    "duration_ms": 1000,
                    "keys": 10,
                    "bad_total": 0 if ok else 1,
                    "rows": 100,
                    "added": chance.randrange(50),
                    "changed": 3,
                    "removed": 1,
                    "unchanged": 100,
                }
                detail = HOSTILE[week % len(HOSTILE)] if week % 7 == 0 else "all keys are good"
                at_s = now - timedelta(days=7 * (51 - week), hours=number)
                event = Event(f"{kind} {name} {week}", at_s, kind, name, "success" if ok else "failure", detail, data)
                journal.append(event, [("mysql", {})] if week == 51 and number == 0 else [])
        for number, text in enumerate(HOSTILE):
            died = {"died": True, "crashes": 0, "relaunch": False}
            subject = f"t{number}" if number else text
            journal.append(Event(f"death{number}", now, "target", subject, "failure", f"died: {text}", died), [])
        journal.remember("tick", now.isoformat(timespec="milliseconds"))
        journal.remember("tick.since", now.isoformat(timespec="milliseconds"))


@pytest.fixture
def chance() -> random.Random:
    return random.Random(17)
