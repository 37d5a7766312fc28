"""Tables and progress bars for a person at a terminal, by rich."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from restart_guard import clock

_APART, _LEAST_WIDTH = 2, 1
_COLOURS = {
    **dict.fromkeys(("success", "running", "✓"), "green"),
    **dict.fromkeys(("failure", "died", "dead", "✗"), "red"),
    **dict.fromkeys(("backoff", "unknown", "unguarded", "!"), "yellow"),
    "stopped": "dim",
}


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], whole: Sequence[int]) -> None:
    Console().print(_drawn(heads, rows, whole))


def live_table(heads: Sequence[str], look: Callable[[], Sequence[Sequence[str]]], whole: Sequence[int]) -> None:
    with Live(_drawn(heads, look(), whole), auto_refresh=False, screen=True) as live, suppress(KeyboardInterrupt):
        while True:
            clock.sleep(1)
            live.update(_drawn(heads, look(), whole), refresh=True)


def _drawn(heads: Sequence[str], rows: Sequence[Sequence[str]], whole: Sequence[int]) -> Table:
    drawn = Table(box=None, pad_edge=False, padding=(0, _APART, 0, 0))
    longest = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    for head, width in zip(heads, _widths(longest, whole), strict=True):
        drawn.add_column(head, no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        drawn.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    return drawn


def _widths(longest: Sequence[int], whole: Sequence[int]) -> list[int]:
    """As long as they want to be, or the longest cut until all fit. Rich itself would cut each, and drop some."""
    widths = list(longest)
    room = Console().width - _APART * len(widths)
    flexible = [number for number in range(len(widths)) if number not in whole and widths[number] > 0]
    while sum(widths) > room and flexible:
        widest = max(flexible, key=widths.__getitem__)
        if widths[widest] == _LEAST_WIDTH:
            break
        widths[widest] -= 1
    return widths


@contextmanager
def counting(noun: str) -> Iterator[Callable[[str, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn(f"{{task.completed}} {noun}"), _Rate())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, done: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=None)
            bar.update(tasks[name], completed=done)

        yield advance


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
