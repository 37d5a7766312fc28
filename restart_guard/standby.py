"""A host of a group: it watches the lease, and while it holds it, it runs the targets.

The beats go on in one thread whatever else is done: starting, stopping, MySQL and WeCom have threads of their own. The
permit, a file, says until when the targets may run; a fence beside each ends it then, also when this process is killed
or hangs. What is done to the targets is in ``leadership.py``.
"""

import os
import select
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from restart_guard import (
    clock,
    delivery,
    guard,
    lease,
    mysql_epoch,
    permit,
    process,
    standby_kept,
    standby_messages,
)
from restart_guard.beside import beside
from restart_guard.errors import DeliveryError, GuardError, JournalError, StoreError
from restart_guard.guarded import Stop
from restart_guard.journal import Event, Journal, new_run_id
from restart_guard.leadership import Leadership
from restart_guard.lease import Change, Mark, Span, View
from restart_guard.lease_store import listen, open_store
from restart_guard.lock import held
from restart_guard.messages import Language
from restart_guard.permit import Permit
from restart_guard.settings import Config
from restart_guard.standby_status import lock_name, settings_of

KIND = "standby"
_LEAST_SILENCE_S = 2.0
_AT_ONCE = Stop(timeout_s=0, force=True)

Say = Callable[[str], None]


def run(config: Config, say: Say, *, for_s: float | None) -> None:
    """Take part until SIGTERM, or for a time. One a config: another waits. Raises BusyError, GuardError."""
    settings = settings_of(config)
    if os.uname().sysname != "Linux":
        raise GuardError("A group of hosts needs Linux: a program is ended with its guard by the kernel there.")
    process.prepare()
    name = lock_name(config)
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    until = None if for_s is None else clock.monotonic() + for_s
    with ExitStack() as stack:
        with held(config.state_dir, [f"next-{name}"], what="Waiting to take part"):
            stack.enter_context(held(config.state_dir, [name], what="Taking part", fallback=False, wait=True))
        member = _Member(config, say)
        if until is None:  # else cron starts one each minute, and that is no news
            say(f"{member.node} takes part in {settings.group}")
        member.run(until)


class _Member:
    def __init__(self, config: Config, say: Say) -> None:
        self._config = config
        self._settings = settings_of(config)
        self._times = self._settings.times
        self._say = say
        self.node = self._settings.node or os.uname().nodename
        assert config.permit is not None  # noqa: S101 (there is a section)
        self._permit = config.permit
        self._view, self._token = self._taken_up()
        self._acks = self._settings.min_acks
        if self._acks is None:
            self._acks = 1 if config.redis.sentinels else 0
        self._claiming: Thread | None = None
        self._leave = self._hand_over = False
        self._nobody_since: float | None = None
        self._kept_at = 0.0
        self._results: SimpleQueue[tuple[Callable[[Any], None], Any]] = SimpleQueue()
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._asked)
        targets = guard.chosen(config, config.standby_targets) if config.standby_targets else []
        self._targets = Leadership(config, targets, lambda name, result: self._post(partial(self._ended, name), result))

    def _asked(self, number: int, _frame: object) -> None:
        if number == signal.SIGUSR1:
            self._hand_over = True
        else:
            self._leave = True

    def _taken_up(self) -> tuple[View, int | None]:
        """Where the process before this one left off, if that is still worth anything; else a new life."""
        kept = standby_kept.load(self._config)
        if kept is None or not kept.view.may_act(clock.boottime()) or kept.view.me.node != self.node:
            return View(Mark(self.node, os.urandom(8).hex())), None
        # Its last change may have been on its way when it ended: that number is used.
        return kept.view._replace(me=kept.view.me._replace(number=kept.view.me.number + 1)), kept.token

    def run(self, until: float | None) -> None:
        if not self._view.leads:
            # What runs here unfenced, from before there was a group or because its fences were killed.
            permit.write(self._permit, Permit())
            self._targets.end(Stop(timeout_s=self._times.fence, force=True))
        silence_s = max(_LEAST_SILENCE_S, 5 * self._times.beat)
        news = partial(listen, self._config.redis, self._settings.channel, silence_s=silence_s, hear=self._hear)
        Thread(target=news, daemon=True).start()
        while True:
            self._beat()
            self._collect()
            self._act()
            if self._leave and not self._targets.acts and not self._targets.is_ending:
                self._release()
                return
            if until is not None and clock.monotonic() >= until:
                return  # the next process goes on; the targets run, as long as their permit lasts
            pause = lease.next_beat(self._view, clock.boottime(), self._times)
            if until is not None:
                pause = min(pause, max(0.0, until - clock.monotonic()))
            if select.select([self._woken], [], [], pause)[0]:
                with suppress(BlockingIOError):
                    os.read(self._woken, 4096)

    def _beat(self) -> None:
        """Read the lease, and change it if that is due."""
        change: Change | None = None
        try:
            with self._store() as store:
                value, span = store.read()
                self._see(value, span)
                if self._leave and not self._view.leads:
                    return
                if not self._view.leads and lease.has_watched(self._view, clock.boottime(), self._times):
                    store.stand_ready(self._view.me.life, self._times.gap)
                change = lease.wanted(self._view, clock.boottime(), self._times)
                if change is not None:
                    done, acknowledged, span = store.change(change, self._acks or 0, self._times.beat / 2)
                    if done:
                        self._changed(change, span, acknowledged=acknowledged)
                    change = None
                if self._view.may_act(clock.boottime()):
                    store.tell(self._settings.channel, self._news())
        except StoreError:
            if change is not None:
                self._view = lease.unclear(self._view, change)
        self._check()

    def _store(self) -> Any:
        return open_store(
            self._config.redis,
            self._settings.group,
            lease_s=self._times.lease,
            timeout_s=max(0.05, self._times.beat * 0.8),
        )

    def _see(self, value: str | None, span: Span) -> None:
        before = standby_kept.holder(self._view.seen)
        self._view = lease.read(self._view, value, span, self._times)
        self._check()
        is_news = before != standby_kept.holder(value) or span.came - self._kept_at >= self._times.lease
        if is_news and not self._view.leads:
            self._keep()

    def _changed(self, change: Change, span: Span, *, acknowledged: bool) -> None:
        if not self._view.leads and not change.new.kind:
            mark = None if change.expected is None else Mark.parse(change.expected)
            self._nobody_since = self._view.seen_at if mark is not None and mark.kind != lease.CANDIDATE else None
        self._view = lease.written(self._view, change, span, self._times, acknowledged=acknowledged)
        if self._view.may_act(clock.boottime()):
            if self._targets.acts or self._targets.is_ending:  # they may drain as long as the lease is ours
                self._allow()
            self._keep()

    def _check(self) -> None:
        """Step down when the lease is lost: what another may run already must be down at once."""
        why = lease.why_lost(self._view, clock.boottime())
        if why:
            self._give_up()
            if self._targets.acts:
                self._stand_down(why, _AT_ONCE)

    def _act(self) -> None:
        """Begin or stop to run the targets, as the lease says."""
        self._targets.end_again()
        now = clock.boottime()
        left = self._view.until - now
        if self._targets.acts:
            if self._leave or self._hand_over:
                self._stand_down("it hands over", Stop(force=True))
            elif left < self._times.fence / 2:
                # Gently as long as there is time for it; at the end the fences do it.
                self._stand_down("the lease could not be renewed", Stop(timeout_s=max(0.0, left), force=True))
            else:
                self._targets.keep_watching()
        elif self._targets.is_ending:
            return
        elif self._hand_over:
            self._hand_over = False
            self._release()
        elif not self._leave and self._view.may_act(now) and left > self._times.fence / 2:
            self._begin()

    def _begin(self) -> None:
        """First the token; the beats go on meanwhile."""
        mysql = self._config.mysql
        if self._token is None and mysql is not None and self._settings.fence_store == "mysql":
            if self._claiming is None:
                self._claiming = Thread(target=self._claim, args=(self._view.me.life,), daemon=True)
                self._claiming.start()
            return
        self._lead("fence_store is none" if mysql is not None else "there is no [mysql]")

    def _claim(self, life: str) -> None:
        assert self._config.mysql is not None  # noqa: S101 (the caller's guard)
        try:
            number = mysql_epoch.claim(self._config.mysql, self._settings.group, self.node)
            self._post(self._claimed, (life, number, ""))
        except DeliveryError as error:
            self._post(self._claimed, (life, None, str(error)))

    def _claimed(self, found: tuple[str, int | None, str]) -> None:
        self._claiming = None
        life, number, why = found
        # One of an earlier leadership is worth nothing: another host may have got a higher one since.
        is_ours = life == self._view.me.life and self._view.may_act(clock.boottime())
        if is_ours and not self._targets.acts and not self._targets.is_ending and not self._leave:
            self._token = number
            self._lead(why)

    def _lead(self, why_no_token: str) -> None:
        permit.write(self._permit, Permit(self._view.acts_until, self._token))
        self._targets.begin()
        self._keep()
        gap = None if self._nobody_since is None else clock.boottime() - self._nobody_since
        self._tell(
            partial(standby_messages.took_over, self._settings.group, self.node, gap),
            partial(standby_messages.token, self._token, why_no_token),
        )

    def _stand_down(self, why: str, stop: Stop) -> None:
        """While a hand-over drains, the lease is still ours, but nothing may be started any more."""
        self._targets.end(stop)
        if self._view.leads:
            self._allow()
        self._tell(partial(standby_messages.stepped_down, self._settings.group, self.node, why), None)

    def _ended(self, name: str, result: Any) -> None:
        text = self._targets.ended(name, result) if name else ""
        if text:
            self._say(text)

    def _collect(self) -> None:
        with suppress(Empty):
            while True:
                take, result = self._results.get_nowait()
                if isinstance(result, BaseException):
                    raise result
                take(result)

    def _release(self) -> None:
        """The others need not wait. Nothing of ours runs any more."""
        view = self._view
        self._give_up()
        if view.leads:
            with suppress(StoreError), self._store() as store:
                heir = store.heir() if view.may_act(clock.boottime()) else ""
                store.change(lease.released(view, heir), 0, 0.0)
                store.tell(self._settings.channel, self._news() | {"released": True}, alive=False)

    def _give_up(self) -> None:
        permit.write(self._permit, Permit())
        self._view = lease.stepped_down(self._view, os.urandom(8).hex())
        self._token = None
        self._keep()

    def _allow(self) -> None:
        permit.write(self._permit, Permit(self._view.acts_until, self._token, starts=self._targets.acts))

    def _keep(self) -> None:
        standby_kept.save(self._config, self._view, self._token)
        self._kept_at = clock.boottime()

    def _news(self) -> dict[str, Any]:
        """Whoever has a use for it may listen; other members only look when one releases the lease."""
        told = {"group": self._settings.group, "node": self.node, "number": self._view.me.number}
        return told | {"token": self._token, "acting": self._targets.acts, "released": False}

    def _hear(self, news: dict[str, Any]) -> None:
        if news.get("released") and news.get("group") == self._settings.group:
            self._post(lambda _: None, None)

    def _post(self, take: Callable[[Any], None], result: Any) -> None:
        self._results.put((take, result))
        with suppress(OSError):
            os.write(self._wake, b"\0")

    def _tell(self, head: Callable[[Language], str], detail: Callable[[Language], str] | None) -> None:
        """Say it, keep it and alert, in a thread: the beats do not wait for a disk or for WeCom."""
        english = head("en") + (f"; {detail('en')}" if detail else "")
        self._say(english)
        job = partial(_record, self._config, self._settings.group, english, head, detail)
        beside(job, partial(self._post, lambda _: None))


def _record(
    config: Config, group: str, english: str, head: Callable[[Language], str], detail: Callable[[Language], str] | None
) -> None:
    language: Language = config.wecom.language if config.wecom else "zh"
    now = clock.now()
    text = standby_messages.alert(
        head(language), detail(language) if detail else "", language=language, at=clock.local(now)
    )
    message = {"text": config.redact(text), "mention": True}
    with suppress(JournalError):
        with Journal.open(config.state_dir) as journal, journal.transaction():
            event = Event(
                new_run_id(), now, KIND, group, "success", config.redact(english), {"host": os.uname().nodename}
            )
            journal.append(event, [(channel, message) for channel in config.alert_channels])
        delivery.deliver(config, delivery.Which.PENDING)
