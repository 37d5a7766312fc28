"""One member's side of the lease: its view, beat by beat, and the trouble it has."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from restart_guard import clock
from restart_guard.config.options import Config, Standby
from restart_guard.errors import CrowdedError, StoreError
from restart_guard.redis_server import client as redis_client
from restart_guard.standby import lease
from restart_guard.standby.lease import Change, Mark, View
from restart_guard.standby.lease_store import KeptStore, LeaseStore, listen, news_channel
from restart_guard.standby.peers import Peers
from restart_guard.threads import start_thread

_LEAST_SILENCE_S = 2.0
_LEAST_TIMEOUT_S = 0.05

News = Callable[[], Mapping[str, Any]]


class LeaseHolder:
    """``view`` is the basis of all decisions. ``trouble`` is why the last beat failed, empty after a good one.

    ``renewed`` is called as soon as the view has a new deadline, before it is published. ``peers`` collects what
    a person should mend.
    """

    def __init__(
        self, config: Config, settings: Standby, view: View, *, news: News, renewed: Callable[[], None]
    ) -> None:
        self._config = config
        self._settings = settings
        self._times = settings.times
        self._news = news
        self._renewed = renewed
        self._acks = config.standby_acks
        self._good_at = clock.boottime()
        self._is_troubled = False
        timeout_s = max(_LEAST_TIMEOUT_S, self._times.beat * 0.8)
        lease_s = self._times.lease
        self._store = KeptStore(config.redis, settings.group, lease_s=lease_s, timeout_s=timeout_s)
        database = None
        with suppress(StoreError):  # which each beat tells
            database = redis_client.database_of(config.redis)
        self.peers = Peers(settings.group, view.me.node, self._times, database)
        self.peers.is_here(view.me.life)
        self.view = view
        self.trouble = ""

    def beat(self, *, may_claim: bool) -> None:
        """Read the lease, and change it if a change is due."""
        was_open = self._store.is_open
        error = self._try(may_claim=may_claim)
        if error is not None and error.code == "closed" and was_open:
            error = self._try(may_claim=may_claim)  # a kept connection may have been closed since the last beat
        if error is not None:
            self.trouble = self._config.redact(str(error))
        elif not self.trouble:
            self._good_at = clock.boottime()

    def _try(self, *, may_claim: bool) -> StoreError | None:
        self.trouble, change = "", None
        try:
            with self._store.use() as store:
                value, span = store.read()
                self.view = lease.read(self.view, value, span, self._times)
                if self.view.sight.mark is not None:
                    self.peers.read(self.view.sight.mark)
                change = self._due(store, may_claim=may_claim)
                if change is not None:
                    self.trouble = self._change(store, change)
                    change = None
                if self.view.may_act(clock.boottime()) and not lease.why_lost(self.view, clock.boottime()):
                    self._publish(store, released=False)
        except StoreError as error:
            if change is not None:
                self.view = lease.unclear(self.view, change)
            return error
        return None

    def _publish(self, store: LeaseStore, *, released: bool) -> None:
        refused = store.tell(self._settings.channel, self._heartbeat(released=released), alive=not released)
        if refused:
            self.peers.note(
                f"The heartbeats on the channels {self._settings.channel} and {news_channel(self._settings.channel)} "
                f"are refused, and the lease goes on without them: {refused}"
            )

    def trouble_news(self) -> str:
        """A message when trouble has lasted for a while, or is over. A single failed beat is no news."""
        lasts = bool(self.trouble) and clock.boottime() - self._good_at > self._times.gap
        if lasts == self._is_troubled:
            return ""
        self._is_troubled = lasts
        return f"The lease cannot be read or renewed: {self.trouble}" if lasts else "The lease can be renewed again."

    def _due(self, store: LeaseStore, *, may_claim: bool) -> Change | None:
        now = clock.boottime()
        if not self.view.leads:
            if not may_claim:
                return None
            if lease.has_watched(self.view, now, self._times):
                store.stand_ready(self.view.me.life, self._times.gap)
        return lease.wanted(self.view, now, self._times)

    def _change(self, store: LeaseStore, change: Change) -> str:
        result = store.change(change, self._acks, self._times.beat / 2)
        if result.took_place:
            self.view = lease.written(self.view, change, result.span, self._times, acknowledged=result.acknowledged)
            self._renewed()
        return (
            "" if result.acknowledged or not result.took_place else f"fewer than {self._acks} replicas acknowledged it"
        )

    def step_down(self, life: str) -> None:
        self.peers.is_here(life)
        self.view = lease.stepped_down(self.view, life)

    def knows_token(self, number: int) -> None:
        self.view = lease.knowing(self.view, number)

    def release(self, view: View) -> None:
        """Let others lead without waiting, after the leadership of this view. Nothing of ours may run any more, and the
        next process of this host must know that already."""
        if not view.leads:
            return
        try:
            with self._store.use() as store:
                value, _ = store.read()
                mark = None if value is None else Mark.parse(value)
                if mark is not None and (mark.life, mark.kind) == (view.me.life, ""):
                    heir = store.heir() if view.may_act(clock.boottime()) else ""
                    heir = "" if heir == view.me.life else heir
                    store.change(lease.released(view.me, value, heir), 0, 0.0)
                    self._publish(store, released=True)
        except StoreError as error:
            self.trouble = self._config.redact(str(error))

    def listen(self, wake: Callable[[], None]) -> None:
        """Hear the group's heartbeats. Call ``wake`` when a node of the group releases the lease."""
        silence_s = max(_LEAST_SILENCE_S, 5 * self._times.beat)
        hear = partial(self._hear, wake)
        job = partial(listen, self._config.redis, self._settings.channel, silence_s=silence_s, hear=hear)
        try:
            start_thread(job)
        except CrowdedError as error:
            self.peers.note(f"The heartbeats of the others are not heard: {error}")

    def _hear(self, wake: Callable[[], None], news: Mapping[str, Any]) -> None:
        """In a thread."""
        self.peers.heard(news)
        if news.get("released") and news.get("group") == self._settings.group:
            wake()

    def _heartbeat(self, *, released: bool) -> dict[str, Any]:
        """The heartbeat with its particulars, for any listener."""
        me = self.view.me
        who = {"group": self._settings.group, "node": me.node, "number": me.number, "life": me.life}
        return {**who, **self._news(), "released": released, "database": self.peers.database}
