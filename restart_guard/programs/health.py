"""Whether a running program is well: its failed probes in a row, and the consequence. Pure."""

from typing import NamedTuple

import msgspec

from restart_guard.config.options import Health


class Pulse(msgspec.Struct, frozen=True):
    """What is known of a target's health: failed probes in a row, the last heartbeat's value, when to look again.

    ``next_at`` in seconds since boot; ``started`` is the start time of the process that was probed.
    """

    started: int = 0
    failures: int = 0
    next_at: float = 0.0
    beat: str = ""


class Probe(NamedTuple):
    """One look. ``ok`` is None when it says nothing about the program, as when Redis itself is away.

    ``beat`` stands for a heartbeat's present value.
    """

    ok: bool | None
    why: str = ""
    beat: str = ""


def is_due(pulse: Pulse, health: Health, *, now: float) -> bool:
    """Whether to probe now. A moment further away than the interval is damaged."""
    return not 0 < pulse.next_at - now <= health.interval


def judged(pulse: Pulse, probe: Probe, health: Health, *, started: int, now: float, fresh: bool) -> Pulse:
    """The pulse after a probe; of a process that is still starting (``fresh``) failures do not count."""
    failures = pulse.failures if pulse.started == started else 0
    if probe.ok:
        failures = 0
    elif probe.ok is False and not fresh:
        failures += 1
    return Pulse(started, failures, now + health.interval, probe.beat or pulse.beat)


def is_good(pulse: Pulse, started: int) -> bool:
    """Whether the last probe of exactly this process was good."""
    return pulse.started == started and pulse.failures == 0 and pulse.next_at > 0


def hangs(pulse: Pulse, health: Health) -> bool:
    return pulse.failures >= health.failures
