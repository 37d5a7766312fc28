"""The state that a process of a group leaves to the next one on its host, which cron starts each minute, and to
``status``, which asks no server."""

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
    """Valid in one boot only, except for the highest token in its view: its times are of CLOCK_BOOTTIME.

    ``acts``: a leader had begun to run its targets. After ``failures`` to run them it does not lead before
    ``rest_until``. ``last_sign`` is the last change of the lease by a leader, and when it was seen. ``notes`` are what
    a person should mend.
    """

    boot: str
    view: View
    token: int | None = None
    acts: bool = False
    failures: int = 0
    rest_until: float = 0.0
    last_sign: tuple[str, float] | None = None
    notes: tuple[str, ...] = ()


def load(config: Config) -> SavedState | None:
    """The saved state; None if there is none, or none of this boot."""
    kept = _read(config)
    return kept if kept is not None and kept.boot == process_table.boot_id() else None


def highest_token(config: Config) -> int:
    """The highest fencing token that this host has seen, in whatever boot; 0 if none."""
    kept = _read(config)
    return 0 if kept is None else kept.view.me.token


def _read(config: Config) -> SavedState | None:
    try:
        return msgspec.json.decode(_path(config).read_bytes(), type=SavedState)
    except (OSError, msgspec.MsgspecError):
        return None


def save(config: Config, kept: SavedState) -> bool:
    """Save the state, if possible: without it the next process first watches for a lease."""
    path = _path(config)
    with suppress(OSError):
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(kept))
        new.replace(path)
        return True
    return False


def here(config: Config) -> str:
    """This host's role in its group, as text, from its own files."""
    assert config.standby is not None  # noqa: S101 (the caller's guard)
    settings = config.standby
    permitted = permit.read(config.permit)
    if permitted.holds():
        return "leads" if permitted.token is None else f"leads, fencing token {permitted.token}"
    kept = load(config)
    # A standby saves what it sees once per lease.
    if kept is None or clock.boottime() - kept.view.sight.contact_at > 2 * settings.lease + settings.times.gap:
        return "is a standby; for the leader see restart-guard standby --status"
    return f"is a standby; {lease.holder(kept.view.sight.value) or 'nobody'} leads"


def _path(config: Config) -> Path:
    assert config.permit is not None  # noqa: S101 (there is a section [standby])
    return config.permit.with_suffix(".json")


def in_group(config: Config, target: Target, observed: Observation) -> Observation:
    """The observation of a group's target: if another host is to run it, it is stopped here, whatever its pid lock
    says."""
    if target.permit is None:
        return observed
    down = observed.process is None and not target.may_run and observed.state is not State.UNKNOWN
    part = f"this host {here(config)}"
    why = f"{observed.why}; {part}" if observed.why and not down else part
    return observed._replace(state=State.STOPPED, why=why, next_try_s=None) if down else observed._replace(why=why)
