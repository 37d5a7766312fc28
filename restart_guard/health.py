"""A program that runs but hangs: look, count the failures across runs, restart it gracefully."""

import msgspec

from restart_guard import backoff, clock, host, pulse, target
from restart_guard.errors import BusyError, GuardError
from restart_guard.guarded import Guarded, Seen, Stop
from restart_guard.lifecycle import Command, State
from restart_guard.probe import probe
from restart_guard.target import Done, How

_LOCK_WAIT_S = 1.0


def look_after(one: Guarded, seen: Seen) -> Done | None:
    """Probe a running target when that is due; restart one that hangs. None when there is nothing to tell."""
    health = one.settings.health
    if health is None or seen.who is None or seen.state is not State.RUNNING:
        return None
    if not pulse.is_due(seen.record.pulse, health, now=clock.boottime()):
        return None
    looked = probe(one, seen.who, seen.record.pulse.beat)
    fresh = host.uptime_s(seen.who) < one.settings.start_timeout
    try:
        with one.lock.held(wait_s=_LOCK_WAIT_S):
            record = one.lock.recorded(host.boot_id())
            if record.who != seen.who:
                return None  # it was restarted meanwhile
            now = clock.boottime()
            after = pulse.judged(record.pulse, looked, health, started=seen.who.started, now=now, fresh=fresh)
            one.lock.record(msgspec.structs.replace(record, pulse=after))
    except BusyError:
        return None
    except GuardError as error:
        return Done(one.name, ok=False, text=str(error))
    wait = backoff.next_try_s(record.crashes, one.settings.restart_backoff, now=clock.boottime())
    if not pulse.hangs(after, health) or wait > 0:
        return None
    times = f"{after.failures} times in a row" if after.failures > 1 else "once"
    # What hangs may well ignore a gentle signal: it has had its time to drain then.
    return target.act(one, Command.HEAL, How(Stop(force=True), why=f"hangs ({looked.why}, {times})"))
