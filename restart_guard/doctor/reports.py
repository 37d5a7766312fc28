"""The doctor's findings about the page and the metrics, which no tick fails for."""

from collections.abc import Iterator

from restart_guard.config.options import Config
from restart_guard.doctor.finding import Finding, Level
from restart_guard.errors import JournalError
from restart_guard.journal.journal import Journal
from restart_guard.reports.publish import METRICS_ERROR, PAGE_ERROR, page_file


def findings(config: Config) -> Iterator[Finding]:
    """One finding for each file that the config asks for."""
    wanted = {}
    if config.page is not None:
        wanted["page", page_file(config)] = PAGE_ERROR
    if config.metrics is not None:
        wanted["metrics", config.metrics.textfile] = METRICS_ERROR
    try:
        journal = Journal.open_to_read(config.state_dir)
        errors = {fact: journal.recall(fact) if journal is not None else None for fact in wanted.values()}
    except JournalError:
        return  # reported in another section
    for (what, path), fact in wanted.items():
        if errors[fact]:
            yield Finding(Level.WARN, f"{what}: {errors[fact]}", "another path, or another owner of the folder")
        elif errors[fact] is None or not path.exists():
            yield Finding(Level.WARN, f"{what}: {path} was never written", "a tick writes it: restart-guard restart")
        else:
            yield Finding(Level.OK, f"{what}: {path}")
