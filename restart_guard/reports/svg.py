"""Bars and plots for the page, as SVG by hand. All texts are escaped here."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

_ESCAPES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#x27;"))
_WIDTH, _BAR_HEIGHT, _PLOT_HEIGHT = 270, 22, 60


class Cell(NamedTuple):
    """A part of a bar: its class in the style sheet, and its title."""

    kind: str
    title: str


class Point(NamedTuple):
    """A point of a plot: seconds since 1970, the value, and its title. ``is_good`` decides its colour."""

    at: float
    value: float
    title: str
    is_good: bool = True


def escape(text: str) -> str:
    """As html.escape does it, whose module loads a table of all entities."""
    for mark, word in _ESCAPES:
        text = text.replace(mark, word)
    return text


def bar(cells: Sequence[Cell]) -> str:
    """Equal parts in a row; neighbours that are the same are one rectangle."""
    step = _WIDTH / len(cells)
    parts, begun = [], 0
    for (kind, title), same in groupby(cells):
        count = len(list(same))
        parts.append(_rect((begun * step, 0, count * step, _BAR_HEIGHT), kind, title))
        begun += count
    return _svg(_BAR_HEIGHT, "".join(parts))


def plot(points: Sequence[Point], *, dashed: float | None = None, dashed_title: str = "") -> str:
    """A line through the points, and a dashed one at a level that matters."""
    highest = max([*(point.value for point in points), dashed or 0.0]) or 1.0
    first, last = points[0].at, points[-1].at

    def x(at: float) -> float:
        return 4 + (_WIDTH - 8) * ((at - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return _PLOT_HEIGHT - 4 - (_PLOT_HEIGHT - 8) * value / highest

    line = " ".join(f"{_short(x(point.at))},{_short(y(point.value))}" for point in points)
    parts = [f'<polyline class="line" points="{line}"/>']
    if dashed is not None:
        level = _short(y(dashed))
        parts.append(f'<line class="dashed" x1="0" x2="{_WIDTH}" y1="{level}" y2="{level}"/>')
        parts.append(_rect((0, y(dashed) - 2, _WIDTH, 4), "hidden", dashed_title))
    parts += [
        _rect((x(point.at) - 2, y(point.value) - 2, 4, 4), "good" if point.is_good else "bad", point.title)
        for point in points
    ]
    return _svg(_PLOT_HEIGHT, "".join(parts))


def _svg(height: int, content: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" preserveAspectRatio="none">{content}</svg>'


def _rect(place: tuple[float, float, float, float], kind: str, title: str) -> str:
    names = ("x", "y", "width", "height")
    place_text = " ".join(f'{name}="{_short(value)}"' for name, value in zip(names, place, strict=True) if value)
    return f'<rect class="{kind}" {place_text}><title>{escape(title)}</title></rect>'


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
