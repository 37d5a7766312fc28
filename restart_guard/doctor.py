"""Looks at everything that the jobs depend on, and says of each what to do. It changes nothing and posts nothing,
unless a test alert is asked for; a robot has no call that would not be a message."""

import os
import stat
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice

from cronsim import CronSim, CronSimError

from restart_guard import (
    clock,
    delivery,
    guard,
    messages,
    mysql_store,
    persistence,
    redis_client,
    standby_findings,
    target_findings,
    timer_findings,
    wecom,
    wire,
)
from restart_guard.errors import DeliveryError, JournalError, SecretError, StoreError
from restart_guard.findings import Finding, Level
from restart_guard.freshness import least_left, span
from restart_guard.journal import Journal
from restart_guard.schedule import local_zone
from restart_guard.settings import Check, Config, Redis, Timer
from restart_guard.values import Secret

_CLOCK_TOLERANCE_S = 2.0
_FREE_BYTES = 50 * 2**20


def examine(config: Config, *, send_test_alert: bool) -> Iterator[Finding]:
    """Everything, one finding a thing."""
    yield from _config(config)
    yield from _secrets(config)
    yield from _state(config)
    yield from target_findings.look(config)
    if config.redis != Redis() or config.checks or config.refreshes:
        yield from _redis(config)
    for name, check in config.checks.items():
        yield from _ttl(config, name, check)
    yield from timer_findings.look(config)
    yield from standby_findings.look(config)
    yield from _mysql(config)
    yield from _wecom(config)
    yield from _ping(config)
    if send_test_alert:
        yield from _test_alert(config)


def _config(config: Config) -> Iterator[Finding]:
    counts = f"{len(config.checks)} checks, {len(config.targets)} targets, {len(config.refreshes)} refreshes"
    yield Finding(Level.OK, f"config {config.path}: {counts}")
    for warning in config.warnings:
        what, _, advice = warning.partition(": ")
        yield Finding(Level.WARN, what, advice)
    if not config.checks and not config.targets:
        yield Finding(Level.WARN, "neither a target nor a check is configured", "add [targets.NAME] or [checks.NAME]")


def _secrets(config: Config) -> Iterator[Finding]:
    for section in (config.redis, config.mysql, config.wecom, config.ping):
        for field in section.__struct_fields__ if section is not None else ():
            secret = getattr(section, field)
            if isinstance(secret, Secret) and secret.text is None:
                yield _secret(secret)


def _secret(secret: Secret) -> Finding:
    try:
        secret.reveal()
        mode = secret.file.stat().st_mode if secret.file else 0
    except (SecretError, OSError) as error:
        return Finding(Level.FAIL, f"secret {error}", "cron has almost no environment: a file is surer than a variable")
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
            found = os.statvfs(config.state_dir)
            if damage != "ok":
                yield Finding(Level.FAIL, f"journal {journal.path}: {damage}", "move it away to start a new one")
            elif found.f_bavail * found.f_frsize < _FREE_BYTES:
                yield Finding(Level.WARN, f"journal {journal.path}: its disk is nearly full", "free some space")
            else:
                yield Finding(Level.OK, f"journal {journal.path}")
            yield from _deliveries(config, journal)
    except JournalError as error:
        yield Finding(Level.FAIL, str(error), f"check the disk, owner and mode of {config.state_dir}")


def _no_journal(config: Config) -> Finding:
    """The first run makes it; made here it would belong to whoever looks first, root perhaps."""
    place = next(path for path in (config.state_dir, *config.state_dir.parents) if path.exists())
    if os.access(place, os.W_OK | os.X_OK):
        return Finding(Level.OK, f"journal in {config.state_dir}: the first run makes it")
    return Finding(Level.FAIL, f"journal: {place} is not writable", "choose another state_dir, or change its owner")


def _deliveries(config: Config, journal: Journal) -> Iterator[Finding]:
    by_destination: dict[str, list[str]] = {}
    for item in journal.undelivered():
        if item.state == "blocked":
            by_destination.setdefault(f"{item.destination} blocked", []).append(item.error or "")
        else:
            by_destination.setdefault(f"{item.destination} pending", []).append(item.error or "not tried yet")
    for what, errors in by_destination.items():
        blocked = what.endswith("blocked")
        advice = (
            "mend it, then: restart-guard deliver --all"
            if blocked
            else "tried again by every run; restart-guard deliver"
        )
        level = Level.FAIL if blocked else Level.WARN
        yield Finding(level, f"{len(errors)} deliveries to {what}: {config.redact(errors[-1])}", advice)
    if not by_destination:
        yield Finding(Level.OK, "everything is delivered")


def _redis(config: Config) -> Iterator[Finding]:
    server = redis_client.name(config.redis)
    try:
        found = redis_client.health(config.redis)
        danger = redis_client.danger(config.redis)
        with redis_client.connected(config.redis) as client:
            problems = persistence.problems(client) if config.redis.require_persistence else []
    except StoreError as error:
        if error.code == "NOPERM":
            yield Finding(Level.WARN, f"{server}: its ACL does not let this user ask INFO or TIME", "allow +info +time")
            return
        yield Finding(Level.FAIL, config.redact(messages.trouble(error, server, "en")), "see [redis] in the config")
        return
    yield Finding(Level.OK, f"{server}: version {found.version}, {found.role}")
    if found.role == "slave":
        advice = "read the master, or name the Sentinels" if found.link == "up" else "its data may be old"
        yield Finding(Level.WARN, f"{server} is a replica, its link to the master is {found.link}", advice)
    if found.evicted and found.policy != "noeviction":
        what = f"{server} has evicted {found.evicted} keys before their time ({found.policy})"
        yield Finding(Level.WARN, what, "raise maxmemory, or set maxmemory-policy noeviction")
    if abs(found.clock_ahead_s) > _CLOCK_TOLERANCE_S:
        what = f"{server}: its clock differs from this host's by {span(abs(found.clock_ahead_s))}"
        yield Finding(Level.WARN, what, "keys expire by its clock: synchronise both")
    if config.redis.require_persistence:
        for problem in problems:
            yield Finding(Level.FAIL, f"{server}: persistence: {problem}", "see its log and config")
        if not problems:
            yield Finding(Level.OK, f"{server}: persistence and replication are well")
    if danger:
        what = f"{server}: restarting it could lose data: {danger}"
        yield Finding(Level.WARN, what, "recoveries of the kind command and restart are refused meanwhile")


def _ttl(config: Config, name: str, check: Check) -> Iterator[Finding]:
    """What is left of the data's TTL at the scheduled hours of the coming year, in the host's time zone."""
    timer = config.timer or Timer()
    now = clock.now()
    here = now.astimezone(local_zone())
    try:
        slots = [slot for slot in islice(CronSim(timer.check_redis, here), 500) if slot - here < timedelta(days=400)]
    except CronSimError as error:
        yield Finding(Level.FAIL, f"timer.check_redis: {error}: {timer.check_redis}", "write five cron fields")
        return
    if check.full_ttl is not None and len(slots) > 1:
        left, at = least_left(check.full_ttl, slots)
        what = f"check {name}: of {span(check.full_ttl)} the TTL has {span(left)} left at {at:%Y-%m-%d %H:%M %z}"
        if left <= 0:
            yield Finding(
                Level.WARN, f"{what}: the data will be gone", f"load it with at least {span(3600 - left)} more"
            )
        else:
            yield Finding(Level.OK, f"{what}, at worst in the coming year")
    elif check.keys and slots:
        yield from _present_ttl(config, name, check.keys[0], slots[0].timestamp() - now.timestamp())


def _present_ttl(config: Config, name: str, key: str, until_next_s: float) -> Iterator[Finding]:
    try:
        left = redis_client.ttl_left(config.redis, key)
    except StoreError:
        return
    if left is not None and left < until_next_s:
        what = f"check {name}: {key} expires in {span(left)}, {span(until_next_s - left)} before the next check"
        yield Finding(Level.WARN, what, "load it again, or with a longer TTL")


def _mysql(config: Config) -> Iterator[Finding]:
    if config.mysql is None:
        yield Finding(Level.OK, "no [mysql]: the journal is the record")
        return
    where = mysql_store.name(config.mysql)
    try:
        monitor = mysql_store.TaskMonitor.connect(config.mysql, only_look=True)
    except DeliveryError as error:
        yield Finding(Level.FAIL, config.redact(str(error)), "see [mysql] in the config; rows wait in the journal")
        return
    monitor.close()
    good, bad = monitor.table.labels
    yield Finding(Level.OK, f"MySQL {where}: status {good}/{bad}, rows arrive once ({monitor.mode})")
    if monitor.table.missing:
        missing = ", ".join(monitor.table.missing)
        yield Finding(Level.OK, f"MySQL {where} lacks {missing}: these are left out")
    if monitor.mode == "look":
        what = f"MySQL {where}: no unique run_id, and {mysql_store.SIDECAR} cannot be used"
        advice = "let somebody run restart-guard init-db who may create tables; until then rows carry a mark"
        yield Finding(Level.WARN, what, advice)


def _wecom(config: Config) -> Iterator[Finding]:
    if config.wecom is None:
        yield Finding(Level.WARN, "no [wecom]: nobody is told when a check stays bad", "add [wecom] webhook")
        return
    for channel in config.alert_channels:
        try:
            if channel == "wecom_app":
                wecom.App(config.wecom, config.state_dir).fetch_token()
            else:
                wecom.Robot(config.wecom)
        except DeliveryError as error:
            yield Finding(Level.FAIL, config.redact(str(error)), "see [wecom] in the config")
            continue
        yield Finding(Level.OK, f"{channel}: {_last(config, channel)}")
        note = _note(config, channel)
        if note:
            yield Finding(Level.WARN, f"{channel}, at its last message: {note}", "see [wecom] in the config")


def _ping(config: Config) -> Iterator[Finding]:
    if config.ping is None:
        return
    try:
        host = wire.host_of(config.ping.url.reveal())
        journal = Journal.open_to_read(config.state_dir)
        error = journal.recall(guard.PING_ERROR) if journal else None
    except (SecretError, JournalError):
        return  # told of elsewhere
    if error:
        yield Finding(Level.FAIL, f"ping: {error}", "see [ping] in the config")
    else:
        yield Finding(Level.OK, f"ping: goes to the monitor at {host}")


def _last(config: Config, channel: str) -> str:
    try:
        journal = Journal.open_to_read(config.state_dir)
        at = journal.last_delivery(channel) if journal else None
    except JournalError:
        at = None
    told = (
        f"last message {clock.local(at):%Y-%m-%d %H:%M}" if at else "no message yet; doctor --send-test-alert tries it"
    )
    return f"logged in, {told}" if channel == "wecom_app" else told


def _note(config: Config, channel: str) -> str | None:
    """What the channel had to say when it took the last message: receivers that it does not know, say."""
    try:
        journal = Journal.open_to_read(config.state_dir)
        return journal.recall(f"{channel}.note") if journal else None
    except JournalError:
        return None


def _test_alert(config: Config) -> Iterator[Finding]:
    language: messages.Language = config.wecom.language if config.wecom else "zh"
    text = messages.test_alert(os.uname().nodename, clock.local(clock.now()), language)
    channels = config.alert_channels
    if not channels:
        yield Finding(Level.FAIL, "no test alert was sent: there is no [wecom]", "add [wecom] webhook")
    for tally in delivery.deliver_directly(config, [(name, {"text": text, "mention": True}) for name in channels]):
        if tally.delivered:
            yield Finding(
                Level.OK, f"{tally.destination}: a test alert was sent{''.join(f'; {x}' for x in tally.said)}"
            )
        else:
            yield Finding(Level.FAIL, f"{tally.destination}: {' '.join(tally.said)}", "see [wecom] in the config")
