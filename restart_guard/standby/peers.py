"""What the other hosts of a group show about their configs, and whatever else a person should mend: each told once, and
shown by ``doctor`` as long as it lasts."""

from collections.abc import Mapping
from typing import Any

from restart_guard import clock
from restart_guard.config.options import Times
from restart_guard.standby.lease import Mark


class Peers:
    """Compares marks, which all of a group write, and heartbeats, whose channel is shared by all databases of a Redis,
    with this host. ``heard`` may be called in another thread."""

    def __init__(self, group: str, node: str, times: Times, database: int | None) -> None:
        self._group = group
        self._node = node
        self._times = Mark("", "").with_times(times).times  # as in a mark: whole milliseconds
        self.database = database
        self._lives: set[str] = set()
        self._namesake: Mark | None = None
        self._seen_at: dict[str, float] = {}
        self._told: set[str] = set()

    def is_here(self, life: str) -> None:
        """A process lifetime of this host."""
        self._lives.add(life)

    def read(self, mark: Mark) -> None:
        if mark.life in self._lives or mark.life == "?":
            return
        if mark.node == self._node:
            before = self._namesake
            # One that stands still is of an earlier process of this host.
            if before is not None and before.life == mark.life and before.number != mark.number:
                self._note_namesake()
            self._namesake = mark
        elif mark.beat_ms and mark.times != self._times:
            self.note(
                f"{mark.node} has {_named(mark.times)}, this host has {_named(self._times)}: use the same [standby] on "
                "each host."
            )

    def heard(self, news: Mapping[str, Any]) -> None:
        """A heartbeat."""
        node, life, database = news.get("node"), news.get("life"), news.get("database")
        if news.get("group") != self._group or life is None or life in self._lives:
            return
        if None not in (database, self.database) and database != self.database:
            self.note(
                f"{node} leads {self._group} in database {database} of this Redis, and this host looks for the lease "
                f"in database {self.database}, so both may lead: use the same database on each host."
            )
        elif node == self._node:
            self._note_namesake()

    def _note_namesake(self) -> None:
        self.note(
            f"Another process takes part in {self._group} under the name of this host, {self._node}: give each host "
            "its own [standby] node."
        )

    def note(self, text: str) -> None:
        self._seen_at[text] = clock.boottime()

    def news(self) -> list[str]:
        """What has not been told yet."""
        new = [text for text in list(self._seen_at) if text not in self._told]
        self._told.update(new)
        return new

    def current(self) -> tuple[str, ...]:
        """What has been seen in the last three leases."""
        since = clock.boottime() - 3 * self._times.lease
        return tuple(text for text, at in list(self._seen_at.items()) if at >= since)


def _named(times: Times) -> str:
    return ", ".join(f"{option} {getattr(times, option):g}s" for option in ("lease", "beat", "fence", "gap"))
