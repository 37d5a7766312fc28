"""Checks everything that the jobs depend on, and says what to do.

It changes nothing and sends nothing, except a test alert if asked: a robot has no call that would not be a message.
"""

import os
import stat
from collections.abc import Iterator

from restart_guard import paths
from restart_guard.config.options import Config, Redis
from restart_guard.config.secrets import Secret
from restart_guard.counts import counted
from restart_guard.doctor import programs, reports, standby, timer
from restart_guard.doctor.alerts import ping_findings, test_alert_findings, wecom_findings
from restart_guard.doctor.finding import Finding, Level
from restart_guard.doctor.servers import mysql_findings, redis_findings, ttl_findings
from restart_guard.errors import JournalError, SecretError
from restart_guard.journal.journal import Journal

_FREE_BYTES = 50 * 2**20


def examine(config: Config, *, test_alert: str | None) -> Iterator[Finding]:
    """All findings, section by section. ``test_alert`` is the channel to try, empty for all, None for none."""
    yield from _config(config)
    yield from _secrets(config)
    yield from _state(config)
    yield from programs.findings(config)
    if config.redis != Redis() or config.checks or config.refreshes:
        yield from redis_findings(config)
    for name, check in config.checks.items():
        yield from ttl_findings(config, name, check)
    yield from timer.findings(config)
    yield from standby.findings(config)
    yield from mysql_findings(config)
    yield from wecom_findings(config)
    yield from ping_findings(config)
    yield from reports.findings(config)
    if test_alert is not None:
        yield from test_alert_findings(config, test_alert)


def _config(config: Config) -> Iterator[Finding]:
    checks, targets = counted(len(config.checks), "check"), counted(len(config.targets), "target")
    counts = f"{checks}, {targets}, {counted(len(config.refreshes), 'refresh', 'refreshes')}"
    yield Finding(Level.OK, f"config {config.path}: {counts}")
    for warning in config.warnings:
        what, _, advice = warning.partition(": ")
        yield Finding(Level.WARN, what, advice)
    if not config.checks and not config.targets:
        yield Finding(Level.WARN, "no target and no check is configured", "add [targets.NAME] or [checks.NAME]")


def _secrets(config: Config) -> Iterator[Finding]:
    for section in (
        config.redis,
        config.mysql,
        config.wecom,
        config.ping,
        *(one.options for one in config.alerts.values()),
    ):
        for field in section.__struct_fields__ if section is not None else ():
            secret = getattr(section, field)
            if isinstance(secret, Secret) and secret.text is None:
                yield _secret(secret)


def _secret(secret: Secret) -> Finding:
    try:
        secret.reveal()
        mode = secret.file.stat().st_mode if secret.file else 0
    except (SecretError, OSError) as error:
        return Finding(Level.FAIL, f"secret {error}", "cron has almost no environment: use a file, not a variable")
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        return Finding(Level.WARN, f"secret file {secret.file} can be read by others", f"chmod 600 {secret.file}")
    return Finding(Level.OK, f"secret {secret.key}")


def _state(config: Config) -> Iterator[Finding]:
    try:
        opened = Journal.open_to_read(config.state_dir)
        if opened is None:
            yield _no_journal(config)
            return
        with opened as journal:
            damage = journal.check_integrity()
            journal.probe()
            disk = os.statvfs(config.state_dir)
            if config.state_dir.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
                yield Finding(Level.WARN, f"{config.state_dir} can be read by others", f"chmod 700 {config.state_dir}")
            if damage != "ok":
                yield Finding(Level.FAIL, f"journal {journal.path}: {damage}", "move it away to start a new one")
            elif disk.f_bavail * disk.f_frsize < _FREE_BYTES:
                yield Finding(Level.WARN, f"journal {journal.path}: its disk is almost full", "free some space")
            else:
                yield Finding(Level.OK, f"journal {journal.path}")
            yield from _deliveries(config, journal)
    except JournalError as error:
        yield Finding(Level.FAIL, str(error), f"check the disk, owner and mode of {config.state_dir}")


def _no_journal(config: Config) -> Finding:
    """The first run creates the journal. Created here it would belong to the user who looks first, perhaps root."""
    place = next(path for path in (config.state_dir, *config.state_dir.parents) if paths.exists(path))
    if os.access(place, os.W_OK | os.X_OK):
        return Finding(Level.OK, f"journal in {config.state_dir}: the first run creates it")
    return Finding(Level.FAIL, f"journal: {place} is not writable", "choose another state_dir, or change its owner")


def _deliveries(config: Config, journal: Journal) -> Iterator[Finding]:
    destinations = journal.open_destinations()
    for destination in destinations:
        for state, number in sorted(journal.open_states(destination).items()):
            blocked = state == "blocked"
            advice = (
                "fix the error, then: restart-guard deliver --all"
                if blocked
                else "every run tries again; or now: restart-guard deliver"
            )
            level = Level.FAIL if blocked else Level.WARN
            count = counted(number, "delivery", "deliveries")
            why = journal.why_waiting(destination, state) or "not tried yet"
            yield Finding(level, f"{count} to {destination} {state}: {config.redact(why)}", advice)
    if not destinations:
        yield Finding(Level.OK, "everything is delivered")
