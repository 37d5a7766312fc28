"""What the process that takes part in a group leaves behind: to the next one of its host, which cron starts each
minute, and to ``status``, which asks no server."""

from contextlib import suppress
from pathlib import Path

import msgspec

from restart_guard import clock
from restart_guard.config.options import Config
from restart_guard.host import permit, process_table
from restart_guard.programs.lifecycle import State
from restart_guard.programs.target import Observation, Target
from restart_guard.standby import lease
from restart_guard.standby.lease import View


class SavedState(msgspec.Struct, frozen=True):
    """Worth nothing in another boot: its times are of CLOCK_BOOTTIME.

    ``acts``: the targets of a leader were begun. After ``failures`` to run them it does not lead before ``rest_until``.
    """

    boot: str
    view: View
    token: int | None = None
    acts: bool = False
    failures: int = 0
    rest_until: float = 0.0


def load(config: Config) -> SavedState | None:
    """None when there is none, or none of this boot."""
    try:
        kept = msgspec.json.decode(_path(config).read_bytes(), type=SavedState)
    except (OSError, msgspec.MsgspecError):
        return None
    return kept if kept.boot == process_table.boot_id() else None


def save(config: Config, kept: SavedState) -> None:
    """Best effort: without it the next process watches for a lease first."""
    path = _path(config)
    with suppress(OSError):
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(kept))
        new.replace(path)


def here(config: Config) -> str:
    """What this host is to its group, as far as its own files tell, in words."""
    assert config.standby is not None  # noqa: S101 (the caller's guard)
    settings = config.standby
    found = permit.read(config.permit)
    if found.holds():
        return "leads" if found.token is None else f"leads, fencing token {found.token}"
    kept = load(config)
    # A standby writes down once a lease what it sees.
    if kept is None or clock.boottime() - kept.view.contact_at > 2 * settings.lease + settings.times.gap:
        return "stands by; who leads is not known here: see restart-guard standby --status"
    return f"stands by; {lease.holder(kept.view.seen) or 'nobody'} leads"


def _path(config: Config) -> Path:
    assert config.permit is not None  # noqa: S101 (there is a section [standby])
    return config.permit.with_suffix(".json")


def in_group(config: Config, target: Target, observed: Observation) -> Observation:
    """A target of a standby group: where another host is to run it, it is stopped here, whatever its pid lock says."""
    if target.permit is None:
        return observed
    down = observed.process is None and not target.may_run and observed.state is not State.UNKNOWN
    part = f"this host {here(config)}"
    why = f"{observed.why}; {part}" if observed.why and not down else part
    return observed._replace(state=State.STOPPED, why=why, next_try_s=None) if down else observed._replace(why=why)
