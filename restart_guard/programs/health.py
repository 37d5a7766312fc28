"""Whether a running program is well: its failed probes in a row, and the consequence. Pure."""

from typing import NamedTuple

import msgspec

from restart_guard.config.options import Health


class HealthRecord(msgspec.Struct, frozen=True):
    """A target's health so far: failed probes in a row, the last heartbeat's value, when to probe again.

    ``next_at`` in seconds since boot; ``started`` is the start time of the process that was probed.
    """

    started: int = 0
    failures: int = 0
    next_at: float = 0.0
    beat: str = ""


class ProbeResult(NamedTuple):
    """One look. ``ok`` is None when it says nothing about the program, as when Redis itself is away.

    ``beat`` stands for a heartbeat's present value.
    """

    ok: bool | None
    why: str = ""
    beat: str = ""


def is_due(record: HealthRecord, health: Health, *, now: float) -> bool:
    """Whether to probe now. A moment further away than the interval is damaged."""
    return not 0 < record.next_at - now <= health.interval


def judged(
    record: HealthRecord, probe: ProbeResult, health: Health, *, started: int, now: float, fresh: bool
) -> HealthRecord:
    """The record after a probe. Failures of a process that is still starting (``fresh``) do not count."""
    failures = record.failures if record.started == started else 0
    if probe.ok:
        failures = 0
    elif probe.ok is False and not fresh:
        failures += 1
    return HealthRecord(started, failures, now + health.interval, probe.beat or record.beat)


def is_good(record: HealthRecord, started: int) -> bool:
    """Whether the last probe of exactly this process was good."""
    return record.started == started and record.failures == 0 and record.next_at > 0


def hangs(record: HealthRecord, health: Health) -> bool:
    return record.failures >= health.failures
