"""A host of a group: it watches the lease, and while it holds it, it runs the targets.

The beats go on in one thread whatever else is done: starting, stopping, MySQL and WeCom have threads of their own. The
permit, a file, says until when the targets may run; a fence beside each ends it then, also when this process is killed
or hangs. What a leader does is what an operator would: the pid locks are written, and a watch relaunches.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import msgspec

from restart_guard import (
    clock,
    delivery,
    fence,
    guard,
    host,
    lease,
    mysql_epoch,
    permit,
    process,
    standby_messages,
    target,
)
from restart_guard.backoff import Crashes
from restart_guard.beside import beside
from restart_guard.errors import DeliveryError, GuardError, JournalError, StoreError
from restart_guard.guarded import Guarded, Stop
from restart_guard.journal import Event, Journal, new_run_id
from restart_guard.lease import Change, Mark, Span, View
from restart_guard.lease_store import open_store
from restart_guard.lifecycle import Command
from restart_guard.lock import held
from restart_guard.messages import Language
from restart_guard.permit import Permit
from restart_guard.settings import Config
from restart_guard.standby_status import lock_name, settings_of
from restart_guard.target import How

KIND = "standby"
_NEVER = Stop(timeout_s=0, force=True)

Say = Callable[[str], None]


class Kept(msgspec.Struct, frozen=True):
    """What a process leaves to the next one of this host, within one boot: cron starts one each minute."""

    boot: str
    view: View
    token: int | None = None


def run(config: Config, say: Say, *, for_s: float | None) -> None:
    """Take part until SIGTERM, or for a time. One a config: another waits. Raises BusyError, GuardError."""
    settings_of(config)
    if os.uname().sysname != "Linux":
        raise GuardError("A group of hosts needs Linux: a program is ended with its guard by the kernel there.")
    process.prepare()
    name = lock_name(config)
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    until = None if for_s is None else clock.monotonic() + for_s
    with ExitStack() as stack:
        with held(config.state_dir, [f"next-{name}"], what="Waiting to take part"):
            stack.enter_context(held(config.state_dir, [name], what="Taking part", fallback=False, wait=True))
        _Member(config, say).run(until)


class _Member:
    def __init__(self, config: Config, say: Say) -> None:
        self._config = config
        self._settings = settings_of(config)
        self._times = self._settings.times
        self._say = say
        self._node = self._settings.node or os.uname().nodename
        self._targets = guard.chosen(config, config.standby_targets)
        assert config.permit is not None  # noqa: S101 (there is a section)
        self._permit = config.permit
        self._kept_path = config.permit.with_suffix(".json")
        self._view, self._token = self._taken_up()
        self._acks = self._settings.min_acks
        if self._acks is None:
            self._acks = 1 if config.redis.sentinels else 0
        self._acting = False
        self._claiming: Thread | None = None
        self._yielding: list[str] = []
        self._leave = self._hand_over = False
        self._watch: subprocess.Popen[bytes] | None = None
        self._nobody_since: float | None = None
        self._results: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._asked)

    def _asked(self, number: int, _frame: object) -> None:
        if number == signal.SIGUSR1:
            self._hand_over = True
        else:
            self._leave = True

    def _taken_up(self) -> tuple[View, int | None]:
        """Where the process before this one left off, if that is still worth anything; else a new life."""
        fresh = View(Mark(self._node, os.urandom(8).hex()))
        try:
            kept = msgspec.json.decode(self._kept_path.read_bytes(), type=Kept)
        except (OSError, msgspec.MsgspecError):
            return fresh, None
        if kept.boot != host.boot_id() or not kept.view.may_act(clock.boottime()) or kept.view.me.node != self._node:
            return fresh, None
        # Its last change may have been on its way when it ended: that number is used.
        return kept.view._replace(me=kept.view.me._replace(number=kept.view.me.number + 1)), kept.token

    def run(self, until: float | None) -> None:
        self._say(f"{self._node} takes part in {self._settings.group}")
        while True:
            self._beat()
            self._collect()
            self._act()
            if self._leave and not self._acting and not self._yielding:
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
                change = lease.wanted(self._view, clock.boottime(), self._times)
                if change is not None:
                    done, acknowledged, span = store.change(change, self._acks or 0, self._times.beat / 2)
                    if done:
                        self._changed(change, span, acknowledged=acknowledged)
                    change = None
                if self._view.confirmed:
                    store.tell(self._settings.channel, {"group": self._settings.group, **self._news()})
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
        self._view = lease.read(self._view, value, span, self._times)
        self._check()

    def _changed(self, change: Change, span: Span, *, acknowledged: bool) -> None:
        if not self._view.leads and not change.new.kind:
            mark = None if change.expected is None else Mark.parse(change.expected)
            self._nobody_since = self._view.seen_at if mark is not None and mark.kind != lease.CANDIDATE else None
        self._view = lease.written(self._view, change, span, self._times, acknowledged=acknowledged)
        if self._view.confirmed:
            if self._acting or self._yielding:  # they may drain as long as the lease is ours
                permit.write(self._permit, Permit(self._view.until, self._token))
            self._keep()

    def _check(self) -> None:
        """Step down when the lease is lost: what another may run already must be down at once."""
        why = lease.why_lost(self._view, clock.boottime())
        if why:
            permit.write(self._permit, Permit())
            self._kept_path.unlink(missing_ok=True)
            self._view = lease.stepped_down(self._view, os.urandom(8).hex())
            if self._acting:
                self._stand_down(why, _NEVER)
            self._token = None

    def _act(self) -> None:
        """Begin or stop to run the targets, as the lease says."""
        now = clock.boottime()
        if self._acting:
            left = self._view.until - now
            if self._leave or self._hand_over:
                self._stand_down("it hands over", Stop(force=True))
            elif left < self._times.fence / 2:
                # Gently as long as there is time for it; at the end the fences do it.
                self._stand_down("the lease could not be renewed", Stop(timeout_s=max(0.0, left), force=True))
        elif self._hand_over and not self._yielding:
            self._hand_over = False
            self._release()
        elif (
            self._view.may_act(now)
            and not self._yielding
            and not self._leave
            and self._view.until - now > self._times.fence / 2
        ):
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
            number = mysql_epoch.claim(self._config.mysql, self._settings.group, self._node)
            self._post("token", (life, number, ""))
        except DeliveryError as error:
            self._post("token", (life, None, str(error)))

    def _lead(self, why_no_token: str) -> None:
        permit.write(self._permit, Permit(self._view.until, self._token))
        self._keep()
        self._acting = True
        for one in self._targets:
            _intend(one)
        names = [one.name for one in self._targets]
        words = [sys.executable, "-m", "restart_guard", "-q", "-c", str(self._config.path), "watch", "--wait", *names]
        if names:
            # It ends with us, or one would be left behind by each of us that is killed.
            ending = partial(fence.die_with_parent, signal.SIGTERM, os.getpid())
            self._watch = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=ending,  # noqa: PLW1509 (it calls nothing but prctl, which is loaded)
            )
        gap = None if self._nobody_since is None else clock.boottime() - self._nobody_since
        self._tell(
            partial(standby_messages.took_over, self._settings.group, self._node, gap),
            partial(standby_messages.token, self._token, why_no_token),
        )

    def _stand_down(self, why: str, stop: Stop) -> None:
        """Nothing of ours acts any more: first nobody relaunches, then all end."""
        self._acting = False
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait()
            self._watch = None
        for one in self._targets:
            self._yielding.append(one.name)
            job = partial(target.act, one, Command.YIELD, How(stop, wait_s=self._times.lease))
            beside(job, partial(self._post, f"down {one.name}"))
        self._tell(partial(standby_messages.stepped_down, self._settings.group, self._node, why), None)

    def _collect(self) -> None:
        with suppress(Empty):
            while True:
                what, result = self._results.get_nowait()
                if what.startswith("down "):
                    name = what.removeprefix("down ")
                    self._yielding.remove(name)
                    self._say(f"{name}: {result.text}" if isinstance(result, target.Done) else f"{name}: {result}")
                else:
                    self._claiming = None
                    life, number, why = result
                    # One of an earlier leadership is worth nothing: another host may have got a higher one since.
                    if life == self._view.me.life and self._view.may_act(clock.boottime()) and not self._acting:
                        self._token = number
                        self._lead(why)

    def _release(self) -> None:
        """The others need not wait. Nothing of ours runs any more."""
        permit.write(self._permit, Permit())
        self._kept_path.unlink(missing_ok=True)
        if self._view.leads:
            with suppress(StoreError), self._store() as store:
                store.change(lease.released(self._view), 0, 0.0)
            self._view = lease.stepped_down(self._view, os.urandom(8).hex())
        self._token = None

    def _keep(self) -> None:
        """Best effort: without it the next process watches for a lease first."""
        with suppress(OSError):
            new = self._kept_path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(Kept(host.boot_id(), self._view, self._token)))
            new.replace(self._kept_path)

    def _news(self) -> dict[str, Any]:
        return {"node": self._node, "number": self._view.me.number, "token": self._token, "acting": self._acting}

    def _post(self, what: str, result: Any) -> None:
        self._results.put((what, result))
        with suppress(OSError):
            os.write(self._wake, b"\0")

    def _tell(self, head: Callable[[Language], str], detail: Callable[[Language], str] | None) -> None:
        """Say it, keep it and alert, in a thread: the beats do not wait for a disk or for WeCom."""
        english = head("en") + (f"; {detail('en')}" if detail else "")
        self._say(english)
        Thread(target=_record, args=(self._config, self._settings.group, english, head, detail), daemon=True).start()


def _intend(one: Guarded) -> None:
    """Write the pid lock, so that a watch looks at it. One that an operator has taken away stays away.

    What happened under another leadership is no reason to wait with the launch.
    """
    with suppress(GuardError), one.lock.held(wait_s=0.2):
        record = one.lock.recorded(host.boot_id())
        was_stopped = not one.lock.is_there() and (record.who is not None or bool(record.ticket))
        if not was_stopped:
            one.lock.record(msgspec.structs.replace(record, crashes=Crashes()))
            one.lock.write(one.lock.read() or os.getpid())


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
