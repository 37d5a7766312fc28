"""The page, in a real Chromium."""

import base64
import hashlib
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from restart_guard.journal.journal import Event, Journal
from restart_guard.reports import page_style, publish
from restart_guard.reports.page_words import STATES, WORDS
from tests.conftest import Guard
from tests.reports.conftest import config_of, fill
from tests.support.chromium import Chromium

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def chromium() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


def test_the_policy_has_the_hashes_of_what_it_allows() -> None:
    """They are constants; and nothing in the style sheet asks for anything from elsewhere."""
    for text, known in ((page_style.STYLE, page_style.STYLE_HASH), (page_style.SCRIPT, page_style.SCRIPT_HASH)):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() == known
    assert "url(" not in page_style.STYLE
    assert "@import" not in page_style.STYLE


def test_every_word_has_both_languages() -> None:
    """With the same gaps to fill."""
    for chinese, english in [*WORDS.values(), *STATES.values()]:
        assert chinese
        assert sorted(re.findall(r"\{\w+\}", chinese)) == sorted(re.findall(r"\{\w+\}", english))


class _Shape(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rects = self.titles = 0
        self.inside: list[str] = []
        self.attributes: set[tuple[str, str]] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.rects += tag == "rect"
        self.titles += tag == "title" and self.inside[-1:] == ["rect"]
        self.attributes |= {(tag, name) for name, _ in attrs}
        if tag not in ("meta", "img"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag


@pytest.mark.process
@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_year_is_small_and_whole(tmp_path: Path, chance: random.Random, language: str) -> None:
    """50 targets and 20 checks; every rectangle has a title, and nothing is fetched, styled or run inline."""
    more = f'[page]\n[wecom]\nlanguage = "{language}"\nwebhook = "https://example.invalid/x?key=secret-key-0001"\n'
    config = config_of(tmp_path, targets=50, checks=20, more=more)
    fill(config, chance)
    assert publish.write_page(config, tmp_path / "page.html") == ""
    text = (tmp_path / "page.html").read_text()
    assert len(text.encode()) <= 150_000
    shape = _Shape()
    shape.feed(text)
    assert shape.inside == []
    assert shape.rects == shape.titles > 100
    assert not {name for _, name in shape.attributes} & {"style", "src", "href", "onerror", "onload", "onclick"}
    assert ("程序" in text) == (language == "zh")


@pytest.mark.server
def test_in_a_browser(tmp_path: Path, chance: random.Random, chromium: Chromium) -> None:
    """Hostile texts are texts, nothing is complained about, a phone needs no scrolling to the side, and an old page
    says so by itself."""
    config = config_of(
        tmp_path,
        targets=12,
        checks=3,
        more='[page]\n[wecom]\nlanguage = "en"\nwebhook = "https://x.invalid/?key=k1234567890"\n',
    )
    fill(config, chance)
    path = tmp_path / "page.html"
    assert publish.write_page(config, path) == ""
    assert path.stat().st_mode & 0o777 == 0o600
    for width in (1000, 360):
        chromium.open(path, width=width)
        assert chromium.value("document.documentElement.scrollWidth") <= width
        assert chromium.value("document.querySelectorAll('img').length") == 0
        assert "</script><img src=x onerror=alert(1)>" in chromium.value("document.body.innerText")
        assert chromium.value("document.getElementById('old').hidden") is True
        assert chromium.value("getComputedStyle(document.querySelector('header')).borderLeftStyle") == "solid"
    colours = []
    for dark in (False, True):
        chromium.open(path, dark=dark)
        colours.append(chromium.value("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
    old = path.read_text()
    at = re.search(r'data-at="(\d+)"', old)
    assert at is not None
    path.write_text(old.replace(at[0], f'data-at="{int(at[1]) - 3600}"'))
    chromium.open(path)
    assert chromium.value("document.getElementById('old').hidden") is False
    assert chromium.value("document.getElementById('old').innerText").startswith("This page is old")
    assert chromium.complaints == []
    # What the policy is there for: an injected script does not run.
    path.write_text(
        old.replace("<main>", "<main><script>document.title='run'</script><p style='color:red' onclick='x()'>")
    )
    chromium.open(path)
    assert chromium.value("document.title") != "run"
    assert len(chromium.complaints) >= 2


@pytest.mark.process
def test_ticks_write_it(guard: Guard) -> None:
    """Last of all, as a whole, and an error fails no tick: it is told by doctor."""
    guard.configure('[page]\nfile = "out/index.html"\nmode = "0644"\n')
    (guard.directory / "out").mkdir()
    assert guard("restart").code == 0
    path = guard.directory / "out/index.html"
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.read_text().endswith("</html>\n")
    assert [one.name for one in path.parent.iterdir()] == ["index.html"]
    path.unlink()
    (guard.directory / "out").rmdir()
    done = guard("restart")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert "index.html cannot be written: No such file or directory" in guard("doctor").out
    (guard.directory / "out").mkdir()
    assert guard("restart").code == 0
    assert "ok    page: " in guard("doctor").out


@pytest.mark.process
def test_it_is_written_on_demand(guard: Guard) -> None:
    """Without a section too, and a place that cannot be written is a sentence."""
    guard.configure("")
    guard("restart")
    done = guard("page", "-o", "now.html")
    assert (done.code, (guard.directory / "now.html").exists()) == (0, True)
    done = guard("page", "-o", "nowhere/now.html")
    assert (done.code, "nowhere/now.html cannot be written: No such file or directory." in done.err) == (1, True)


@pytest.mark.process
def test_a_watch_writes_it_when_something_dies(guard: Guard) -> None:
    """Within a second or so, and not only each minute."""
    (guard.directory / "run.sh").write_text("#!/bin/sh\nexec sleep 1000\n")
    (guard.directory / "run.sh").chmod(0o755)
    guard.configure('[page]\n[targets.web]\nprogram = "run.sh"\ncommand = "{program}"\nmin_uptime = "50ms"\n')
    assert guard("start").code == 0
    path = guard.state / "page.html"
    with guard.popen("watch") as watch:
        try:
            deadline = time.monotonic() + 20
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            before = path.read_text()
            assert guard("kill").code == 0
            while "relaunched" not in path.read_text() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert "relaunched" in path.read_text()
            assert "relaunched" not in before
        finally:
            watch.terminate()
            watch.communicate()
            guard("stop", "--force", "--timeout", "0s")


@pytest.mark.process
def test_root_writes_into_no_folder_of_others(guard: Guard) -> None:
    """The page, and the metrics."""
    if os.geteuid() != 0:
        pytest.skip("only root must be careful here")
    for folder in ("page", "metrics"):
        (guard.directory / folder).mkdir()
        os.chown(guard.directory / folder, 65534, 65534)
    guard.configure('[page]\nfile = "page/index.html"\n[metrics]\ntextfile = "metrics/rg.prom"\n')
    assert guard("restart").code == 0
    assert [list((guard.directory / folder).iterdir()) for folder in ("page", "metrics")] == [[], []]
    out = guard("doctor").out
    assert out.count("as root nothing is written to") == 2


@pytest.mark.process
def test_half_a_page_is_none(guard: Guard) -> None:
    """A disk that fills up while it is written leaves the page that was there."""
    guard.configure("")
    guard("restart")
    assert guard("page", "-o", "page.html").code == 0
    before = (guard.directory / "page.html").read_text()
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pathlib import Path; from restart_guard.reports.publish import write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\nprint(write(Path('page.html'), 'x' * 150_000, 0o600))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=guard.directory, capture_output=True, encoding="utf-8", check=True
    )
    assert "page.html cannot be written: File too large" in done.stdout
    assert (guard.directory / "page.html").read_text() == before


@pytest.mark.process
def test_a_schedule_that_never_comes_hides_nothing_else(guard: Guard) -> None:
    """The 30th of February: that job alone is left out."""
    guard.configure('[page]\n[checks.never]\nkeys = ["k"]\nschedule = "0 2 30 2 *"\n[checks.c]\nkeys = ["k"]\n')
    guard("restart")
    assert "<bdi>c</bdi>" in (guard.state / "page.html").read_text()
    assert any(line["what"] == "check c" for line in guard("--json").json)


@pytest.mark.process
def test_takeovers_are_not_crowded_out(guard: Guard) -> None:
    """However much has happened since."""
    guard.configure('[page]\n[standby]\ngroup = "irm"\ntargets = []\n')
    guard("restart")
    with Journal.open(guard.state) as journal, journal.transaction():
        for number in range(70):
            kind, text = ("standby", "b leads now") if number < 3 else ("check", "fine")
            subject = "irm" if kind == "standby" else "c"
            journal.append(Event(f"e{number}", datetime.now(UTC), kind, subject, "success", text, {}), [])
    assert guard("page").code == 0
    assert (guard.state / "page.html").read_text().count("b leads now") == 3
