"""The metrics in Prometheus' text format (prometheus.io/docs/instrumenting/exposition_formats), for node_exporter's
textfile collector.

No samples have time stamps, since node_exporter refuses a file with any, and no key names are labels, since there may
be millions.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from restart_guard import __version__
from restart_guard.config.options import Config
from restart_guard.journal import spans
from restart_guard.reports.summary import JobState, Summary, field

_STATES = ("running", "unguarded", "dead", "backoff", "stopped", "standby", "unknown")
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class _Family(NamedTuple):
    """Samples of one name: labels and values."""

    name: str
    kind: str
    help: str
    samples: Iterable[tuple[Mapping[str, str], float | None]]


def text(config: Config, state: Summary) -> str:
    """All metrics; ``guard`` is the config's path, so that two configs on a host do not collide."""
    lines = []
    for family in _families(config, state):
        samples = [(labels, value) for labels, value in family.samples if value is not None]
        if not samples:
            continue
        name = f"restart_guard_{family.name}"
        lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]
        for labels, value in samples:
            pairs = {"guard": str(config.path), **labels}
            shown = ",".join(f'{label}="{word.translate(_ESCAPES)}"' for label, word in pairs.items())
            lines.append(f"{name}{{{shown}}} {value:.17g}")
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace").decode()


def _families(config: Config, state: Summary) -> Iterator[_Family]:
    yield _Family("build_info", "gauge", "The version of restart-guard.", [({"version": __version__}, 1)])
    tick = None if state.last_tick is None else state.last_tick.timestamp()
    yield _Family("tick_timestamp_seconds", "gauge", "When the last tick was.", [({}, tick)])
    yield from _of_targets(state)
    yield from _of_checks([job for job in state.jobs if job.kind == "check"])
    yield from _of_refreshes([job for job in state.jobs if job.kind == "refresh"])
    waiting = state.waiting.items()
    yield _Family(
        *("deliveries_pending", "gauge", "Rows and messages that have not arrived, blocked ones among them."),
        [({"destination": name}, one.pending + one.blocked) for name, one in waiting],
    )
    yield _Family(
        *("deliveries_oldest_timestamp_seconds", "gauge", "When the oldest of these was made."),
        [({"destination": name}, one.oldest.timestamp()) for name, one in waiting],
    )
    if config.standby is not None:
        yield _Family(
            *("standby_leader", "gauge", "Whether this host leads its group."),
            [({"group": config.standby.group}, float(state.leads))],
        )


def _of_targets(state: Summary) -> Iterator[_Family]:
    labels = {one.name: {"target": one.name} for one in state.targets}
    yield _Family(
        *("target_up", "gauge", "Whether the target runs."),
        [(labels[one.name], float(one.state in spans.UP)) for one in state.targets],
    )
    yield _Family(
        *("target_state", "gauge", "1 for the state of the target."),
        [(labels[one.name] | {"state": name}, float(one.state == name)) for one in state.targets for name in _STATES],
    )
    yield _Family(
        *("target_start_timestamp_seconds", "gauge", "When the process that runs the target was started."),
        [(labels[one.name], None if one.started is None else one.started.timestamp()) for one in state.targets],
    )
    yield _Family(
        *("target_relaunches_total", "counter", "Relaunches of the target."),
        [(labels[one.name], one.totals.relaunches) for one in state.targets],
    )
    yield _Family(
        *("target_down_seconds_total", "counter", "For how long the target was seen to be down."),
        [(labels[one.name], one.totals.down_s) for one in state.targets],
    )


def _of_checks(jobs: Iterable[JobState]) -> Iterator[_Family]:
    checks = [({"check": job.name}, job) for job in jobs]

    def gauge(name: str, about: str, value: Iterable[float | None]) -> _Family:
        pairs = zip((labels for labels, _ in checks), value, strict=True)
        return _Family(f"check_{name}", "gauge", about, list(pairs))

    last = [job.last for _, job in checks]
    good = [job.last_success for _, job in checks]
    yield gauge("ok", "Whether the last outcome was good.", [_flag(one and one.status == "success") for one in last])
    yield gauge("last_run_timestamp_seconds", "When it ran last.", [one and one.at.timestamp() for one in last])
    yield gauge(
        "last_success_timestamp_seconds", "When it was good last.", [one and one.at.timestamp() for one in good]
    )
    runs = [job.next_run for _, job in checks]
    yield gauge(
        "next_run_timestamp_seconds", "When it runs next.", [None if run is None else run.timestamp() for run in runs]
    )
    missed = [float(job.has_missed) for _, job in checks]
    yield gauge("missed", "Whether its last scheduled time has passed without a run.", missed)
    took = [field(one, "duration_ms") for one in last]
    yield gauge("duration_seconds", "How long the last run took.", [None if ms is None else ms / 1000 for ms in took])
    yield gauge("keys", "Keys that were read.", [field(one, "keys") for one in last])
    yield gauge("bad_keys", "Keys that were not as they should be.", [field(one, "bad_total") for one in last])
    ends = [
        None if (ttl := field(one, "least_ttl_s")) is None or one is None else one.at.timestamp() + ttl for one in last
    ]
    yield gauge("expires_timestamp_seconds", "When the first of the keys expires.", ends)


def _of_refreshes(jobs: Iterable[JobState]) -> Iterator[_Family]:
    good = [({"refresh": job.name}, job.last_success) for job in jobs]
    yield _Family(
        *("refresh_last_success_timestamp_seconds", "gauge", "When the refresh succeeded last."),
        [(labels, one and one.at.timestamp()) for labels, one in good],
    )
    yield _Family(
        *("refresh_rows", "gauge", "Rows of the last refresh that succeeded."),
        [(labels, field(one, "rows")) for labels, one in good],
    )
    yield _Family(
        *("refresh_drift_rows", "gauge", "How Redis differed from MySQL before that refresh."),
        [
            (labels | {"change": change}, field(one, change))
            for labels, one in good
            for change in ("added", "changed", "removed", "unchanged")
        ],
    )


def _flag(value: object) -> float | None:
    return None if value is None else float(bool(value))
