"""The doctor's findings about the timer: whether our jobs are installed, whether they can run, and whether they do.

"Nothing to do" must never look like "nothing ran".
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from restart_guard import clock, paths
from restart_guard.config.options import Config, Timer
from restart_guard.counts import counted
from restart_guard.doctor.finding import Finding, Level
from restart_guard.durations import span
from restart_guard.errors import GuardError, JournalError
from restart_guard.journal.journal import Journal, Wanted
from restart_guard.timer import crontab, install, systemd
from restart_guard.timer.crontab_block import beside_block, bites
from restart_guard.timer.jobs import jobs, log_dir
from restart_guard.timer.schedule import last_slot, next_slot

_TICK_LATE_S = 180.0
_LINES = {"cron": "cron lines", "cron.d": "lines in /etc/cron.d", "systemd": "systemd units"}


def findings(config: Config) -> Iterator[Finding]:
    """One finding for each thing that was checked."""
    try:
        installed = install.installed(config)
        current = {backend: install.is_current(config, backend, lines) for backend, lines in installed.items()}
    except (GuardError, OSError) as error:
        yield Finding(Level.WARN, f"timer: {error}", "restart-guard install-timer --backend print shows the lines")
        return
    if not installed and not crontab.exists():
        yield Finding(Level.WARN, "timer: crontab(1) is not installed", "install cron, or use --backend systemd")
    elif not installed:
        yield Finding(Level.WARN, "timer: the crontab has no lines of this config", "restart-guard install-timer")
    if len(installed) > 1:
        both = " and ".join(installed)
        yield Finding(
            Level.WARN,
            f"timer: our jobs are installed twice, by {both}",
            "restart-guard uninstall-timer, then install-timer",
        )
    for backend, lines in installed.items():
        if not current[backend]:
            what = f"timer: the installed {_LINES[backend]} are out of date"
            yield Finding(Level.WARN, what, "restart-guard install-timer")
        yield _ticks(config, _what(backend, lines))
        yield from _daemon(backend)
        if backend != "systemd":
            yield from _interpreters(lines, user=backend == "cron.d")
    if installed:
        yield from _logs(config)
        yield from _checks(config)
    if crontab.exists():
        yield from _crontab(config)


def _what(backend: str, lines: Sequence[str]) -> str:
    return {
        "cron": f"timer: {counted(len(lines), 'line')} in the crontab",
        "cron.d": f"timer: {counted(len(lines), 'line')} in /etc/cron.d",
        "systemd": f"timer: {counted(len(lines), 'unit')} of systemd",
    }[backend]


def _ticks(config: Config, what: str) -> Finding:
    try:
        journal = Journal.open_to_read(config.state_dir)
        last = journal.recall("tick") if journal is not None else None
    except JournalError:
        return Finding(Level.OK, what)  # the journal's error is reported in another section
    if last is None:
        return Finding(
            Level.WARN,
            f"{what}; the tick never ran",
            "wait a minute, then see crontab_error.log",
        )
    ago = (clock.now() - datetime.fromisoformat(last)).total_seconds()
    if ago > _TICK_LATE_S:
        advice = "look whether cron runs, and at crontab_error.log"
        return Finding(Level.WARN, f"{what}; the last tick was {span(ago)} ago", advice)
    return Finding(Level.OK, f"{what}, the last tick {span(max(0.0, ago))} ago")


def _daemon(backend: str) -> Iterator[Finding]:
    if backend == "systemd":
        if not systemd.runs_here():
            yield Finding(
                Level.FAIL, "timer: systemd does not run on this host", "restart-guard install-timer --backend cron"
            )
        elif not systemd.lingers():
            yield Finding(Level.WARN, *systemd.NO_LINGER)
    elif not install.cron_is_seen():
        yield Finding(Level.FAIL, "timer: no cron daemon is running", "start it (service cron start), or ask root to")


def _interpreters(lines: Sequence[str], *, user: bool) -> Iterator[Finding]:
    """If a venv was moved or removed, the programs that cron's lines name are gone."""
    for program in dict.fromkeys(_program(line, user=user) for line in lines):
        if program and not os.access(program, os.X_OK):
            yield Finding(Level.FAIL, f"timer: {program} cannot be run", "restart-guard install-timer")


def _program(line: str, *, user: bool) -> str:
    """The program that a line runs; empty for a line that is no job."""
    parts = line.split(maxsplit=6 if user else 5)
    if line.lstrip().startswith("#") or len(parts) < 6:
        return ""
    try:
        return shlex.split(parts[-1].replace("'\\%'", "%"))[0]
    except (ValueError, IndexError):
        return ""


def _logs(config: Config) -> Iterator[Finding]:
    folder = log_dir(config)
    if not (paths.is_dir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        what = f"timer: the log folder {folder} is missing or not writable, so no job can start"
        yield Finding(Level.FAIL, what, f"mkdir -p {folder}, or make the crontab's user its owner")


def _checks(config: Config) -> Iterator[Finding]:
    """When each weekly check ran last, and when it is due."""
    if not config.checks:
        return
    schedule = (config.timer or Timer()).check_redis
    try:
        last_due = last_slot(schedule, option="timer.check_redis", now=clock.now())
        next_due = next_slot(schedule, option="timer.check_redis", now=clock.now())
        journal = Journal.open_to_read(config.state_dir)
    except (GuardError, JournalError):
        return  # reported in another section
    for name in config.checks:
        events = journal.history(Wanted(kind="check", subject=name), limit=1) if journal is not None else []
        ran = datetime.fromisoformat(events[0]["at"]) if events else None
        due = f"next due {next_due:%Y-%m-%d %H:%M}"
        if ran is None:
            yield Finding(
                Level.WARN, f"check {name}: never ran, {due}", f"restart-guard check-redis {name} runs it now"
            )
        elif ran < last_due:
            what = f"check {name}: ran last {ran:%Y-%m-%d %H:%M}, but was due {last_due:%Y-%m-%d %H:%M}"
            yield Finding(Level.WARN, what, "the hourly catch-up will run it; see crontab_error.log")
        else:
            yield Finding(Level.OK, f"check {name}: ran last {ran:%Y-%m-%d %H:%M} ({events[0]['status']}), {due}")


def _crontab(config: Config) -> Iterator[Finding]:
    """Other lines of the crontab that affect ours, or that run our command a second time."""
    try:
        above, below = beside_block(crontab.read(), install.block_name(config.path))
        has_block = install.installed(config).get("cron") is not None
    except GuardError:
        return
    for bite in bites(above) if has_block else ():
        yield Finding(Level.WARN, f"timer: {bite}", "move it below our block, or into the lines that need it")
    ours = {job.words[0] for job in jobs(config, watch=True)} & {str(path) for path in _scripts()}
    marks = [str(config.path), *ours]
    for line in [*above, *below]:
        if not line.lstrip().startswith("#") and any(mark in line for mark in marks):
            yield Finding(
                Level.WARN,
                f"timer: outside our block another line runs it too: {line.strip()}",
                "remove that line: crontab -e",
            )


def _scripts() -> Iterator[Path]:
    return (Path(__file__).resolve().parents[2] / "sbin").glob("*.sh")
