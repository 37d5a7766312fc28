"""How a group of hosts looks from this one, and asking the process that takes part here."""

import os
import signal
from contextlib import suppress
from typing import NamedTuple

from restart_guard import clock, permit, standby_kept
from restart_guard.errors import BusyError, GuardError, StoreError, UsageError
from restart_guard.lease_store import open_store
from restart_guard.lock import held
from restart_guard.permit import Permit
from restart_guard.settings import Config, Standby


def settings_of(config: Config) -> Standby:
    """Raises UsageError without a section [standby]."""
    if config.standby is None:
        raise UsageError(f"{config.path} has no section [standby].")
    return config.standby


def lock_name(config: Config) -> str:
    return f"standby-{settings_of(config).group}"


class Status(NamedTuple):
    """How a group looks from this host."""

    group: str
    node: str
    role: str
    holder: str | None
    token: int | None
    permit_s: float
    error: str | None


def status(config: Config) -> Status:
    """Ask the lease and look at our own files."""
    settings = settings_of(config)
    held_permit = permit.read(config.permit) if config.permit is not None else Permit()
    left = max(0.0, held_permit.until - clock.boottime())
    holder, error = None, None
    try:
        with open_store(config.redis, settings.group, lease_s=settings.lease, timeout_s=config.redis.timeout) as store:
            value, _ = store.read()
        holder = standby_kept.holder(value)
    except StoreError as trouble:
        error = config.redact(str(trouble))
    node = settings.node or os.uname().nodename
    return Status(settings.group, node, "leading" if left else "standby", holder, held_permit.token, left, error)


def line(found: Status) -> str:
    """The status on one line."""
    token = "" if found.token is None else f", fencing token {found.token}"
    ours = f"{found.node} is {found.role}{token}" + (f", for {found.permit_s:.1f} s more" if found.permit_s else "")
    holder = f"unknown ({found.error})" if found.error else found.holder or "nobody"
    return f"{found.group}: {ours}; the lease is held by {holder}"


def hand_over(config: Config) -> None:
    """Ask the process that takes part here to stop its targets and let another host lead. Raises GuardError."""
    path = config.state_dir / "locks" / lock_name(config)
    with suppress(BusyError):
        with held(config.state_dir, [lock_name(config)], what="Taking part", fallback=False):
            pass
        raise GuardError("No restart-guard standby takes part on this host.")
    try:
        os.kill(int(path.read_text()), signal.SIGUSR1)
    except (OSError, ValueError) as error:
        raise GuardError(f"The process that takes part could not be asked: {error}.") from error
