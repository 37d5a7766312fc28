"""The doctor's findings about Redis and MySQL."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import islice

from cronsim import CronSim, CronSimError

from restart_guard import clock
from restart_guard.checks.rules import least_left
from restart_guard.config.options import Check, Config
from restart_guard.counts import counted
from restart_guard.doctor.finding import Finding, Level
from restart_guard.durations import span
from restart_guard.errors import DeliveryError, StoreError
from restart_guard.mysql import client as mysql_client
from restart_guard.mysql import task_monitor
from restart_guard.redis_server import client as redis_client
from restart_guard.redis_server import persistence
from restart_guard.redis_server.wording import trouble
from restart_guard.timer.schedule import check_schedule, local_zone

_CLOCK_TOLERANCE_S = 2.0


def redis_findings(config: Config) -> Iterator[Finding]:
    server = redis_client.name(config.redis)
    try:
        info = redis_client.server_info(config.redis)
        danger = persistence.danger(config.redis)
        with redis_client.connected(config.redis) as client:
            problems = persistence.problems(client) if config.redis.require_persistence else []
    except StoreError as error:
        if error.code == "NOPERM":
            yield Finding(Level.WARN, f"{server}: its ACL does not allow this user INFO or TIME", "allow +info +time")
            return
        if error.code in ("closed", "ERR") and redis_client.answers(config.redis):
            what = f"{server} does not answer INFO or TIME (a proxy?): its version, role and evictions are unknown"
            yield Finding(Level.WARN, what, "checks of named keys work; patterns need SCAN")
            return
        yield Finding(Level.FAIL, config.redact(trouble(error, server, "en")), "see [redis] in the config")
        return
    yield Finding(Level.OK, f"{server}: version {info.version}, {info.role}")
    if info.role == "slave":
        advice = "use the master's address, or the Sentinels" if info.link == "up" else "its data may be old"
        yield Finding(Level.WARN, f"{server} is a replica, its link to the master is {info.link}", advice)
    if info.evicted and info.policy != "noeviction":
        what = f"{server} has evicted {counted(info.evicted, 'key')} before time ({info.policy})"
        yield Finding(Level.WARN, what, "raise maxmemory, or set maxmemory-policy noeviction")
    if abs(info.clock_ahead_s) > _CLOCK_TOLERANCE_S:
        what = f"{server}: its clock differs from this host's by {span(abs(info.clock_ahead_s))}"
        yield Finding(Level.WARN, what, "keys expire by its clock: synchronise both clocks")
    if config.redis.require_persistence:
        for problem in problems:
            yield Finding(Level.FAIL, f"{server}: persistence: {problem}", "see its log and config")
        if not problems:
            yield Finding(Level.OK, f"{server}: persistence and replication are healthy")
    if danger:
        what = f"{server}: restarting it could lose data: {danger}"
        yield Finding(Level.WARN, what, "until this is fixed, recoveries of the kind command and restart are refused")


def ttl_findings(config: Config, name: str, check: Check) -> Iterator[Finding]:
    """The TTL that is left at the scheduled times of the coming year, in the host's time zone."""
    schedule = check_schedule(config, name)
    now = clock.now()
    here = now.astimezone(local_zone())
    try:
        slots = [slot for slot in islice(CronSim(schedule.fields, here), 500) if slot - here < timedelta(days=400)]
    except CronSimError as error:
        yield Finding(Level.FAIL, f"{schedule.option}: {error}: {schedule.fields}", "write five cron fields")
        return
    if check.full_ttl is not None and len(slots) > 1:
        left, at = least_left(check.full_ttl, slots)
        what = f"check {name}: of {span(check.full_ttl)} the TTL has {span(left)} left at {at:%Y-%m-%d %H:%M %z}"
        if left <= 0:
            yield Finding(
                Level.WARN, f"{what}: the data will have expired", f"load it with at least {span(3600 - left)} more"
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


def mysql_findings(config: Config) -> Iterator[Finding]:
    if config.mysql is None:
        yield Finding(Level.OK, "no [mysql]: outcomes are recorded in the journal only")
        return
    where = task_monitor.name(config.mysql)
    try:
        monitor = task_monitor.TaskMonitor.connect(config.mysql, only_look=True)
    except DeliveryError as error:
        yield Finding(Level.FAIL, config.redact(str(error)), "see [mysql] in the config; rows wait in the journal")
        return
    monitor.close()
    if config.mysql.tls == "preferred" and not mysql_client.is_here(config.mysql):
        what = f"MySQL {where}: tls = preferred does not verify the server, so that others in between could pose as it"
        yield Finding(Level.WARN, what, 'set [mysql] tls = "verify", with ca_file for a CA of your own')
    good, bad = monitor.table.labels
    yield Finding(Level.OK, f"MySQL {where}: status {good}/{bad}, rows arrive once ({monitor.mode})")
    if monitor.table.missing:
        missing = ", ".join(monitor.table.missing)
        yield Finding(Level.OK, f"MySQL {where} does not have {missing}: these are left out")
    if monitor.mode == "look":
        what = f"MySQL {where}: no unique run_id, and {task_monitor.SIDECAR} cannot be used"
        advice = "run restart-guard init-db as a MySQL user who may create tables; until then rows carry a mark"
        yield Finding(Level.WARN, what, advice)
