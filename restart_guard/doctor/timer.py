"""The doctor's findings about the timer: whether our jobs are installed, whether they can run, and whether they do.

"Nothing to do" must never look like "nothing ran".
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from restart_guard import clock, paths
from restart_guard.config.options import Config
from restart_guard.counts import counted
from restart_guard.doctor.finding import Finding, Level
from restart_guard.durations import span
from restart_guard.errors import GuardError, JournalError
from restart_guard.host import process_table
from restart_guard.host.identity import Identity
from restart_guard.journal import due
from restart_guard.journal.journal import Journal, Wanted
from restart_guard.timer import crontab, install, systemd
from restart_guard.timer.crontab_block import assignments, beside_block, bites, block_names, lines_of
from restart_guard.timer.jobs import log_dir
from restart_guard.timer.schedule import last_slot, next_slot, tick_schedule

_TICK_LATE_S = 120.0
_LOCALTIME = Path("/etc/localtime")
_JOBS = {"restart", "watch", "check-redis", "standby"}
_SCRIPTS = {"restart.sh", "restart_get_redis.sh"}
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
            yield from _zone(config)
        for name in install.unset_variables(config, backend):
            what = f"timer: a secret is in the variable {name}, which the timer does not set for our jobs"
            level = Level.WARN if backend == "systemd" else Level.FAIL  # a unit's manager may set it
            yield Finding(level, what, 'write it into a file, and { file = "…" } in the config')
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
    now, at = clock.now(), datetime.fromisoformat(last)
    ago = (now - at).total_seconds()
    if (now - next_slot(tick_schedule(config), now=at)).total_seconds() > _TICK_LATE_S:
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


def _zone(config: Config) -> Iterator[Finding]:
    """Whether cron runs our lines by another clock than theirs (see journal/due.py)."""
    ours = assignments(install.lines_above(config.path)).get("TZ", "")
    for daemon in install.cron_daemons():
        theirs = process_table.environment_entry(daemon.pid, "TZ") or ""
        if theirs and theirs != ours:
            what = f"timer: cron runs by TZ={theirs}, our jobs by {f'TZ={ours}' if ours else '/etc/localtime'}"
            yield Finding(Level.WARN, what, "give the host that zone (/etc/localtime), then start cron without TZ")
        elif not theirs and _started_at(daemon) < _changed_at(_LOCALTIME):
            what = "timer: /etc/localtime was changed after cron was started, so cron runs by the zone before"
            yield Finding(Level.WARN, what, "restart cron, or ask root to")


def _started_at(process: Identity) -> float:
    """When a process began, in seconds of the wall clock."""
    return clock.now().timestamp() - process_table.uptime_s(process)


def _changed_at(path: Path) -> float:
    """When a file or link was put there, in seconds of the wall clock."""
    try:
        return path.lstat().st_ctime
    except OSError:
        return 0.0


def _checks(config: Config) -> Iterator[Finding]:
    """When each check, and each refresh that has a schedule, ran last, and when it is due."""
    try:
        journal = Journal.open_to_read(config.state_dir)
        for job in due.scheduled(config):
            yield _job(journal, job)
    except (GuardError, JournalError):
        return  # reported in another section


def _job(journal: Journal | None, job: due.Scheduled) -> Finding:
    what, by_hand = f"{job.kind} {job.subject}", "check-redis" if job.kind == "check" else "refresh"
    now = clock.now()
    last_due, next_due = last_slot(job.schedule, now=now), next_slot(job.schedule, now=now)
    events = journal.history(Wanted(kind=job.kind, subject=job.subject), limit=1) if journal is not None else []
    seen = due.first_seen(journal, job) if journal is not None else None
    text = f"next due {next_due:%Y-%m-%d %H:%M}"
    if not events:
        if seen is not None and seen > last_due:
            return Finding(Level.OK, f"{what}: first due {next_due:%Y-%m-%d %H:%M}")
        return Finding(Level.WARN, f"{what}: never ran, {text}", f"restart-guard {by_hand} {job.subject} runs it now")
    ran = datetime.fromisoformat(events[0]["at"])
    if journal is not None and ran < last_due and due.has_missed(journal, job, only_look=True):
        missed = f"{what}: ran last {ran:%Y-%m-%d %H:%M}, but was due {last_due:%Y-%m-%d %H:%M}"
        return Finding(Level.WARN, missed, "the hourly catch-up will run it; see crontab_error.log")
    return Finding(Level.OK, f"{what}: ran last {ran:%Y-%m-%d %H:%M} ({events[0]['status']}), {text}")


def _crontab(config: Config) -> Iterator[Finding]:
    """Other lines of the crontab that affect ours, or that run our command a second time; blocks of configs that are
    gone."""
    try:
        content = crontab.read()
        name = install.block_in(content, config.path)
        above, below = beside_block(content, name)
        has_block = lines_of(content, name) is not None
    except GuardError:
        return
    for bite in bites(above) if has_block else ():
        yield Finding(Level.WARN, f"timer: {bite}", "move it below our block, or into the lines that need it")
    others = [other for other in block_names(content) if other != name]
    for other in others:
        if not paths.exists(other):
            what = f"timer: the crontab has lines of ours for {other}, which is gone"
            yield Finding(Level.WARN, what, f"restart-guard -c {shlex.quote(other)} uninstall-timer")
    ours = {line for other in others for line in lines_of(content, other) or ()}
    for line in [*above, *below]:
        if line not in ours and _runs_us(line, config):
            yield Finding(
                Level.WARN,
                f"timer: outside our block another line runs it too: {line.strip()}",
                "remove that line: crontab -e",
            )


def _runs_us(line: str, config: Config) -> bool:
    """Whether a line of a crontab runs one of our jobs with this config: our command with ``-c``, or our script in the
    config's own folder."""
    fields = line.split(maxsplit=1 if line.startswith("@") else 5)
    if line.lstrip().startswith("#") or len(fields) < 2:
        return False
    try:
        words = list(shlex.shlex(fields[-1], posix=True, punctuation_chars=True))
    except ValueError:
        return False
    scripts = {str(config.path.parent / "sbin" / script) for script in _SCRIPTS}
    if any(paths.real(word) in map(paths.real, scripts) for word in words if word.endswith(".sh")):
        return True
    is_ours = any(word.rpartition("/")[2] in ("restart-guard", "restart_guard") for word in words)
    places = [word.partition("=")[2] or word for word in words if "/" in word]
    has_config = any(paths.real(place) == paths.real(config.path) for place in places)
    return is_ours and has_config and bool(_JOBS & set(words))
