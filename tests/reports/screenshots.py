"""Makes the pictures of the page in docs/. By hand: python -m tests.reports.screenshots"""

import json
import random
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from restart_guard.config import load
from restart_guard.journal import spans
from restart_guard.journal.journal import Event, Journal, Totals
from restart_guard.journal.spans import Span
from restart_guard.reports import publish
from tests.conftest import Guard
from tests.support.chromium import Chromium

DOCS = Path(__file__).parents[2] / "docs"
_CONFIG = """
state_dir = "state"
[page]
[wecom]
language = "{language}"
webhook = "https://example.invalid/?key=0000000000"
[targets.web]
program = "web.sh"
command = "{{program}}"
[targets.worker]
program = "worker.sh"
command = "{{program}}"
[checks.metadata]
keys = ["your_data_key"]
[refreshes.article_counts]
query = "SELECT 1"
key = "count:user:arts"
type = "zset"
schedule = "0 1 * * 1"
[mysql]
user = "u"
database = "irmdata"
"""


def fill(folder: Path, chance: random.Random) -> None:
    config = load.load(folder / "config.toml", {})
    now = datetime.now(UTC)
    with Journal.open(config.state_dir) as journal, journal.transaction():
        for name in config.targets:
            at = (now - timedelta(days=88)).timestamp()
            for _ in range(5 if name == "web" else 2):
                up, down = chance.random() * 30 * 86400, chance.random() * 7200
                if at + up + down > now.timestamp() - 4000:
                    break
                spans._add(journal, "target", name, Span("running", at, at + up))
                spans._add(journal, "target", name, Span("dead", at + up, at + up + down))
                journal.count("target", name, Totals(relaunches=1, down_s=down))
                at += up + down
            state = "stopped" if name == "worker" else "running"
            spans._set_newest(journal, "target", name, Span(state, at, now.timestamp()))
        for week in range(20):
            at_week = now - timedelta(days=7 * (19 - week), hours=8)
            left = 7 * 86400 - chance.random() * 20000
            data = {"least_ttl_s": left, "read_ms": 300 + chance.randrange(80), "keys": 1, "bad_total": 0}
            ok = week != 12
            detail = "1 key is good" if ok else "your_data_key is missing"
            journal.append(
                Event(f"c{week}", at_week, "check", "metadata", "success" if ok else "failure", detail, data), []
            )
            drift = {"rows": 9120, "added": 40 + chance.randrange(90), "changed": 300, "removed": 12, "unchanged": 8700}
            event = Event(f"r{week}", at_week, "refresh", "article_counts", "success", "9120 rows", drift)
            journal.append(event, [])
        died = {
            "died": True,
            "crashes": 0,
            "relaunch": False,
            "signal": "SIGKILL",
            "lived_s": 354000.0,
            "is_seen": True,
        }
        at_death = now - timedelta(hours=3)
        detail = "died: signal KILL, after 4d2h"
        journal.append(Event("d", at_death, "target", "web", "failure", detail, died), [])
        again = {"crashes": 1, "relaunch": True}
        journal.append(Event("d2", at_death, "target", "web", "success", "relaunched, pid 4711", again), [])
        journal.remember("tick", now.isoformat(timespec="milliseconds"))


def main() -> None:
    with Chromium() as browser:
        for language, name, width in (("en", "page", 1000), ("zh", "page.zh-CN", 1000), ("zh", "page-phone", 360)):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                (folder / "config.toml").write_text(_CONFIG.format(language=language))
                fill(folder, random.Random(7))
                (folder / "web.sh").write_text("#!/bin/sh\nexec sleep 100\n")
                (folder / "web.sh").chmod(0o755)
                guard = Guard(folder)
                guard("start", "web")
                config = load.load(folder / "config.toml", {})
                assert publish.write_page(config, folder / "page.html") == ""
                text = (folder / "page.html").read_text()
                text = text.replace(str(folder), "/home/you").replace(json.dumps(config.path.name), '"config.toml"')
                (folder / "page.html").write_text(text)
                guard("stop", "--force", "--timeout", "0s")
                browser.open(folder / "page.html", width=width, height=900, dark=name == "page-phone")
                browser.screenshot(DOCS / f"{name}.png")


if __name__ == "__main__":
    main()
