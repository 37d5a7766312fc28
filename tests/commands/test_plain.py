"""Plain command lines are read as click reads them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import pytest

from restart_guard.cli import cli
from restart_guard.commands.programs import plain
from restart_guard.commands.programs.restart import command as restart
from restart_guard.commands.programs.status import command as status
from restart_guard.session import Session

pytestmark = pytest.mark.unit

BEFORE = ["", "-c a.toml", "--config 配置.toml", "-q", "-q -c -", "-v", "--config=a.toml", "-qc"]
AFTER = ["", "app", "文章 b", "--json", "--json app", "app --json", "--cold", "-- -a", "-h"]
LINES = [
    f"{before} {command} {after}".split()
    for before, command, after in product(BEFORE, ["restart", "status", "start"], AFTER)
] + [["status", ""]]


def as_click_reads(line: Sequence[str]) -> tuple[str, Session, Mapping[str, Any]]:
    session = Session()
    with cli.make_context("restart-guard", list(line), obj=session) as context:
        words: list[str] = context._protected_args + context.args  # click has no other way
        context.invoked_subcommand = words[0]
        cli.callback.__wrapped__(context, **context.params)  # type: ignore[union-attr]
        command = {"restart": restart, "status": status}[words[0]]
        return words[0], session, command.make_context(words[0], words[1:], parent=context).params


def test_it_reads_what_the_timer_writes() -> None:
    """Else nothing would be gained."""
    assert plain.read(["-c", "a.toml", "restart"], Session()) is not None
    assert plain.read(["status"], Session()) is not None


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_a_plain_line_means_what_click_says(line: list[str]) -> None:
    """Every line that is read here; the others are click's."""
    session = Session()
    job: Callable[[], int] | None = plain.read(line, session)
    if job is None:
        assert (session.config_option, session.terminal.verbosity) == (None, 0)
        return
    assert isinstance(job, partial)
    name, clicked, params = as_click_reads(line)
    assert (session.config_option, session.terminal.verbosity) == (clicked.config_option, clicked.terminal.verbosity)
    assert job.func is {"restart": plain.restart, "status": plain.status}[name]
    assert tuple(job.args[1]) == params["names"]
    assert job.keywords.get("as_json", False) == params.get("as_json", False)
    assert not params.get("cold")
