"""The state of a group as seen from this host, and requests to the process that takes part here."""

import os
import signal
from contextlib import suppress
from typing import NamedTuple

from restart_guard import clock
from restart_guard.config.options import Config, Standby
from restart_guard.durations import span
from restart_guard.errors import BusyError, GuardError, StoreError, UsageError
from restart_guard.host import permit
from restart_guard.lock import held
from restart_guard.standby import memory
from restart_guard.standby.lease import Mark, holder
from restart_guard.standby.lease_store import open_store


def settings_of(config: Config) -> Standby:
    """Raises UsageError without a section [standby]."""
    if config.standby is None:
        raise UsageError(f"{config.path} has no section [standby].")
    return config.standby


def node_of(settings: Standby) -> str:
    return settings.node or os.uname().nodename


class Status(NamedTuple):
    """The state of a group as seen from this host. ``lease_s`` is the lease in the holder's config.

    ``rest_s``: for how much longer this host does not lead, since it could not run its targets.
    """

    group: str
    node: str
    role: str
    holder: str | None
    lease_s: float | None
    token: int | None
    permit_s: float
    rest_s: float
    error: str | None


def status(config: Config) -> Status:
    """Read the lease and our own files."""
    settings = settings_of(config)
    held_permit = permit.read(config.permit)
    left = max(0.0, held_permit.until - clock.boottime())
    value, error = None, None
    try:
        with open_store(config.redis, settings.group, lease_s=settings.lease, timeout_s=config.redis.timeout) as store:
            value, _ = store.read()
    except StoreError as trouble:
        error = config.redact(str(trouble))
    node = node_of(settings)
    lease_s = Mark.parse(value).lease or None if value is not None else None
    role = "leading" if left else "standby"
    kept = memory.load(config)
    rest_s = max(0.0, kept.rest_until - clock.boottime()) if kept is not None else 0.0
    return Status(settings.group, node, role, holder(value), lease_s, held_permit.token, left, rest_s, error)


def line(state: Status) -> str:
    """The status on one line."""
    token = "" if state.token is None else f", fencing token {state.token}"
    ours = f"{state.node} is {state.role}{token}" + (f", {state.permit_s:.1f} s left" if state.permit_s else "")
    leader = f"unknown ({state.error})" if state.error else state.holder or "nobody"
    rest = f", and does not lead for {span(state.rest_s)}: it could not run its targets" if state.rest_s else ""
    return f"{state.group}: {ours}{rest}; the lease is held by {leader}"


def takes_part(config: Config) -> bool:
    """Whether a process of this host takes part."""
    with suppress(BusyError), held(config.state_dir, [config.standby_name], what="The standby process", fallback=False):
        return False
    return True


def hand_over(config: Config) -> bool:
    """Ask the process that takes part here to stop its targets and let another host lead. False if this host does not
    lead.

    Raises GuardError, UsageError.
    """
    settings_of(config)
    path = config.state_dir / "locks" / config.standby_name
    if not takes_part(config):
        raise GuardError("No restart-guard standby runs on this host.")
    if not permit.read(config.permit).holds():
        return False
    try:
        os.kill(int(path.read_text()), signal.SIGUSR1)
    except (OSError, ValueError) as error:
        raise GuardError(f"The standby process could not be signalled: {error}.") from error
    return True
