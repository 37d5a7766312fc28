"""Writes the page and the metrics: last of all, and never at the cost of the job.

As root only into folders that are root's alone (docs/security.md): in another's folder the file would be a way to write
elsewhere.
"""

import os
from contextlib import suppress
from pathlib import Path

from restart_guard.config.options import Config
from restart_guard.errors import GuardError
from restart_guard.host.files import Files, user_name
from restart_guard.host.trust import weakness
from restart_guard.journal.journal import Journal, Wanted
from restart_guard.lock import held
from restart_guard.reports.summary import Summary, summary

POINTS = 20
"""Outcomes of a job that the page plots."""

_EVENTS, _TAKEOVERS = 50, 10

PAGE_ERROR, METRICS_ERROR = "page.error", "metrics.error"
"""The journal's facts about why a file could not be written the last time."""

_METRICS_MODE = 0o644


def publish(config: Config) -> None:
    """Write what the config asks for. An error is kept for ``doctor``."""
    with suppress(GuardError, OSError), held(config.state_dir, ["publish"], what="The page"):
        journal = Journal.open_to_read(config.state_dir)
        if journal is None:
            return
        with journal:
            state = summary(config, journal, outcomes=POINTS if config.page is not None else 1)
            errors = {}
            if config.page is not None:
                errors[PAGE_ERROR] = _page(config, state, journal, page_file(config))
            if config.metrics is not None:
                # What is off costs nothing.
                from restart_guard.reports import metrics

                errors[METRICS_ERROR] = write(config.metrics.textfile, metrics.text(config, state), _METRICS_MODE)
            is_news = any(journal.recall(name) != error for name, error in errors.items())
        if is_news:
            with Journal.open(config.state_dir) as writing, writing.transaction():
                for name, error in errors.items():
                    writing.remember(name, error)


def write_page(config: Config, path: Path) -> str:
    """Write the page now. Returns why not, or an empty text. Raises JournalError, BusyError."""
    with held(config.state_dir, ["publish"], what="The page", wait=True):
        journal = Journal.open_to_read(config.state_dir)
        return _page(config, summary(config, journal, outcomes=POINTS), journal, path)


def _page(config: Config, state: Summary, journal: Journal | None, path: Path) -> str:
    # As above.
    from restart_guard.reports import page

    past = page.Past()
    if journal is not None:
        group = Wanted(kind="standby", subject=config.standby.group) if config.standby is not None else None
        takeovers = [] if group is None else journal.outcomes(group, limit=_TAKEOVERS)
        past = page.Past(journal.newest(_EVENTS), takeovers[::-1])
    mode = int(config.page.mode if config.page is not None else "0600", 8)
    return write(path, page.html(config, state, past), mode)


def page_file(config: Config) -> Path:
    named = None if config.page is None else config.page.file
    return named or config.state_dir / "page.html"


def write(path: Path, content: str, mode: int) -> str:
    """Write a file as a whole or not at all. Returns why not, or an empty text."""
    if os.geteuid() == 0:
        weak = weakness(path.parent)
        if weak is not None:
            who = "others than root can write it" if weak.is_open else f"it belongs to user {user_name(weak.owner)}"
            return f"{path}: as root nothing is written to {weak.path}, since {who}"
    try:
        Files().replace(path, content.encode("utf-8", "replace"), mode=mode, sync=False)
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}"
    return ""
