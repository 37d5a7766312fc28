"""``restart-guard`` alone: the overview."""

from restart_guard import clock
from restart_guard.journal.journal import Journal
from restart_guard.reports.overview import lines
from restart_guard.reports.summary import summary
from restart_guard.session import Session

_MARKS = {"fail": "✗", "warn": "!", "ok": "✓"}


def show(session: Session, *, as_json: bool) -> None:
    config = session.config
    found = lines(summary(config, Journal.open_to_read(config.state_dir)))
    if as_json:
        session.terminal.document([line.shown(session.config_option) for line in found])
        return
    now = clock.now()
    rows = [
        (
            _MARKS[line.level],
            line.what,
            line.told(now),
            line.command(session.config_option) or "",
        )
        for line in found
    ]
    session.terminal.table(("", "what", "how it is", "what to type next"), rows, whole=(0, 1, 3))
