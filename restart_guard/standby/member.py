"""A host of a group: it watches the lease and, while it holds the lease, runs the targets.

The beats go on in one thread whatever else is done: starting, stopping, MySQL and WeCom have threads of their own. The
permit, a file, says until when the targets may run; a fence beside each target ends it then, also if this process is
killed or hangs. ``leadership.py`` acts on the targets.
"""

import os
import select
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from restart_guard import clock
from restart_guard.backoff import delay
from restart_guard.config.options import Config
from restart_guard.errors import GuardError, told
from restart_guard.host import permit, process_table
from restart_guard.host.permit import Permit
from restart_guard.lock import held
from restart_guard.programs import fence, operate, processes
from restart_guard.programs.target import StopOptions
from restart_guard.standby import events, fencing_token, lease, memory, messages
from restart_guard.standby.fencing_token import Claimed
from restart_guard.standby.leadership import Leadership
from restart_guard.standby.lease import Mark, View
from restart_guard.standby.lease_holder import LeaseHolder
from restart_guard.standby.memory import SavedState
from restart_guard.standby.status import node_of, settings_of
from restart_guard.threads import BackgroundWriter, in_background

_AT_ONCE = StopOptions(timeout_s=0, force=True)
_LEAST_PAUSE_S = 0.01
_TELL_S = 15.0  # later the ticks deliver it from the journal
_REST_FIRST_S, _REST_CAP_S = 60.0, 3600.0

Say = Callable[[str], None]


def run(config: Config, say: Say, *, for_s: float | None) -> None:
    """Take part until SIGTERM, or for a time. Only one process may do so for a config; another waits.

    Raises BusyError, GuardError.
    """
    settings = settings_of(config)
    if os.uname().sysname != "Linux":
        raise GuardError("A standby group needs Linux: only its kernel can end a program together with its guard.")
    processes.prepare()
    until = None if for_s is None else clock.monotonic() + for_s
    with ExitStack() as stack:
        aside = stack.enter_context(BackgroundWriter(say))
        _require_state_dir(config)
        with held(config.state_dir, [f"next-{config.standby_name}"], what="A waiting standby process"):
            stack.enter_context(held(config.state_dir, [config.standby_name], what="The standby process", wait=True))
        member = GroupMember(config, aside.say)
        if until is None:  # under cron a new process starts each minute, which is no news
            aside.say(f"{member.node} takes part in {settings.group}")
        member.run(until)


def _require_state_dir(config: Config) -> None:
    """Without a place for the permit no host can lead, and the two locks would be one. Raises GuardError."""
    locks = config.state_dir / "locks"
    why = "it may not be written"
    try:
        locks.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(locks, os.W_OK | os.X_OK) and not os.statvfs(locks).f_flag & os.ST_RDONLY:
            return
    except OSError as error:
        why = error.strerror or repr(error)
    raise GuardError(f"standby keeps its permit in {config.state_dir}, where nothing can be written: {why}.")


@dataclass
class _Token:
    """The fencing token of this host's leadership. ``asked_for`` and ``known_for`` are process lifetimes.

    ``wait_until`` is when the targets are started without one, once the lease allows it; 0 before that.
    """

    number: int | None = None
    why_none: str = ""
    asked_for: str = ""
    known_for: str = ""
    wait_until: float = 0.0


class GroupMember:
    def __init__(self, config: Config, say: Say) -> None:
        self._config = config
        self._settings = settings_of(config)
        self._times = self._settings.times
        self._say = say
        self.node = node_of(self._settings)
        assert config.permit is not None  # noqa: S101 (there is a section)
        self._permit = config.permit
        self._permitted_until = 0.0
        self._bound_until = 0.0  # the latest end of a leadership of ours that was ever on disk
        self._is_releasing = False
        self._asked_to_leave = 0
        self._hand_over = False
        self._cannot = ""
        self._kept_at = 0.0
        self._unrecorded = 0
        self._results: SimpleQueue[tuple[Callable[[Any], None], Any]] = SimpleQueue()
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._asked)
        targets = operate.chosen(config, config.standby_targets) if config.standby_targets else []
        self._targets = Leadership(config, targets, lambda name, result: self._post(partial(self._ended, name), result))
        self._kept = self._taken_up()
        self._bound_until = self._kept.view.hold.until
        self._lease = LeaseHolder(config, self._settings, self._kept.view, news=self._news, renewed=self._renewed)
        life = self._kept.view.me.life if self._kept.acts else ""
        self._token = _Token(self._kept.token, asked_for=life, known_for=life)

    def _asked(self, number: int, _frame: object) -> None:
        if number == signal.SIGUSR1:
            self._hand_over = True
        else:
            self._asked_to_leave += 1

    def _taken_up(self) -> SavedState:
        """The state of the process before this one, if it ran in this boot and under the same name."""
        kept = memory.load(self._config)
        if kept is None or kept.view.me.node != self.node:
            me = Mark(self.node, _new_life(), token=memory.highest_token(self._config))
            return SavedState(process_table.boot_id(), View(me))
        if kept.view.leads and clock.boottime() >= kept.view.hold.until:
            view = lease.stepped_down(kept.view, _new_life())
            return msgspec.structs.replace(kept, view=view, token=None, acts=False)
        # Its last change may have been under way when it ended: do not use that number again.
        return msgspec.structs.replace(
            kept, view=kept.view._replace(me=kept.view.me._replace(number=kept.view.me.number + 1))
        )

    def run(self, until: float | None) -> None:
        if self._kept.acts:
            self._targets.begin()
        else:
            # End targets that run without a fence: from before there was a group, or their fences were killed.
            self._permit_is(Permit())
            self._targets.end(StopOptions(timeout_s=self._times.fence, force=True))
        if until is None:  # a service that is started again should try again
            self._kept = msgspec.structs.replace(self._kept, rest_until=0.0)
        self._lease.listen(lambda: self._post(lambda _: None, None))
        while True:
            begun = clock.boottime()
            self._beat()
            self._collect()
            if self._act():
                self._finish_telling()
                return
            is_busy = self._asked_to_leave or self._hand_over or self._targets.is_ending or self._unrecorded
            if until is not None and clock.monotonic() >= until and not is_busy:
                self._keep()
                return  # the next process goes on; the targets run as long as their permit is valid
            if select.select([self._woken], [], [], self._pause(begun, until))[0]:
                with suppress(BlockingIOError):
                    os.read(self._woken, 4096)

    def _pause(self, begun: float, until: float | None) -> float:
        """Seconds to the next beat, which counts from the beginning of this one."""
        now = clock.boottime()
        pauses = [lease.next_beat(self._lease.view, begun, self._times) - (now - begun)]
        gently = self._lease.view.hold.until - self._times.fence / 2 - now
        if self._targets.acts and gently > 0:
            pauses.append(gently)
        if not self._targets.acts and self._token.wait_until > now:
            pauses.append(self._token.wait_until - now)
        if until is not None and clock.monotonic() < until:
            pauses.append(until - clock.monotonic())
        return max(_LEAST_PAUSE_S, min(pauses))

    def _beat(self) -> None:
        before = self._lease.view
        may_claim = not self._asked_to_leave and clock.boottime() >= self._kept.rest_until
        self._lease.beat(may_claim=may_claim)
        view, now = self._lease.view, clock.boottime()
        for news in (self._lease.trouble_news(), *self._lease.peers.news()):
            if news:
                self._say(news)
        holder = lease.holder(before.sight.value)
        self._note_sign(view)
        why = lease.why_lost(view, now)
        if why:
            self._give_up()
            if self._targets.acts:
                self._stand_down(self._because(why), _AT_ONCE)
        is_news = holder != lease.holder(view.sight.value) or now - self._kept_at >= self._times.lease
        if (view.leads or is_news) and not self._is_releasing:
            self._keep()

    def _note_sign(self, view: View) -> None:
        """That another leader lives, from a change of the lease: a value that is only read again is no sign."""
        value = view.sight.value
        is_sign = not view.leads and lease.holder(value) not in (None, self.node)
        if is_sign and value is not None and (self._kept.last_sign is None or self._kept.last_sign[0] != value):
            self._signed(value, view.sight.seen_at)

    def _signed(self, value: str, at: float) -> None:
        self._kept = msgspec.structs.replace(self._kept, last_sign=(value, at))

    def _renewed(self) -> None:
        """The targets may drain as long as the lease is ours."""
        is_ours = self._lease.view.may_act(clock.boottime())
        if is_ours and (self._targets.acts or self._targets.is_ending):
            self._allow()

    def _because(self, why: str) -> str:
        return f"{why} ({self._lease.trouble})" if self._lease.trouble else why

    def _act(self) -> bool:
        """Start or stop running the targets, as the lease says. True when all is done and this process may leave."""
        self._targets.end_again()
        now = clock.boottime()
        left = self._lease.view.hold.until - now
        if self._targets.acts:
            self._look_after(left)
        elif self._targets.is_ending:
            if self._targets.is_overdue or self._asked_to_leave > 1:
                self._abandon()
        elif self._hand_over or self._asked_to_leave:
            if not self._release():
                return False
            self._hand_over = False
            return self._asked_to_leave > 0
        elif self._lease.view.leads:
            self._claim_token()
            if self._lease.view.may_act(now) and left > self._times.fence / 2 and not self._waits_for_token(now):
                self._lead()
        return False

    def _look_after(self, left: float) -> None:
        if self._asked_to_leave or self._hand_over:
            self._stand_down("it hands over", StopOptions(force=True))
            return
        if left < self._times.fence / 2:
            # Gently while there is time; at the end the fences kill.
            why = self._because("the lease could not be renewed")
            self._stand_down(why, StopOptions(timeout_s=max(0.0, left), force=True))
            return
        cannot = self._cannot or self._targets.keep_watching()
        if cannot:
            self._leave_it_to_others(cannot)
        elif self._targets.is_well and self._kept.failures:
            self._kept = msgspec.structs.replace(self._kept, failures=0, rest_until=0.0)

    def _leave_it_to_others(self, cannot: str) -> None:
        failures = self._kept.failures + 1
        rest_until = clock.boottime() + delay(failures, first_s=_REST_FIRST_S, cap_s=_REST_CAP_S)
        self._kept = msgspec.structs.replace(self._kept, failures=failures, rest_until=rest_until)
        self._hand_over = True
        self._stand_down(f"it cannot run its targets: {cannot}", StopOptions(force=True))

    def _claim_token(self) -> None:
        """Ask for it while the claim of the lease waits for its confirmation. The beats go on meanwhile."""
        life, mysql = self._lease.view.me.life, self._config.mysql
        if life in (self._token.known_for, self._token.asked_for):
            return
        self._token = _Token(asked_for=life)
        if mysql is None or self._settings.fence_store != "mysql":
            self._token.why_none = "there is no [mysql]" if mysql is None else "fence_store is none"
            self._token.known_for = life
            return
        above = self._lease.view.me.token
        job = partial(fencing_token.claim, mysql, self._settings.group, self.node, above)
        in_background(job, partial(self._post, partial(self._claimed, life)))

    def _waits_for_token(self, now: float) -> bool:
        """For no longer than a beat from when the targets may run: MySQL may hang."""
        if self._token.known_for == self._lease.view.me.life:
            return False
        if not self._token.wait_until:
            self._token.wait_until = now + self._times.beat
            self._token.why_none = "MySQL has not answered yet"
        return now < self._token.wait_until

    def _claimed(self, life: str, result: Any) -> None:
        # A token of an earlier leadership is useless: another host may have got a higher one since.
        if life != self._lease.view.me.life:
            return
        self._token.known_for = life
        if not isinstance(result, Claimed):
            self._token.why_none = told(result)
            return
        self._token.number = result.number
        self._lease.knows_token(result.number)
        if result.was_set_back:
            self._say(
                f"The table guard_epoch knew only lower fencing tokens than {self._settings.group} has seen: it was "
                f"restored or dropped. {result.number} is above all of them."
            )
        if self._targets.acts:
            self._say(f"The fencing token {result.number} came late: what was started before has none.")

    def _lead(self) -> None:
        if not self._permit_is(Permit(self._lease.view.acts_until, self._token.number)):
            self._leave_it_to_others(self._cannot)
            return
        self._targets.begin()
        gap = None if self._kept.last_sign is None else clock.boottime() - self._kept.last_sign[1]
        self._tell(
            partial(messages.took_over, self._settings.group, self.node, gap),
            partial(messages.token, self._token.number, self._token.why_none),
        )
        self._keep()

    def _stand_down(self, why: str, stop: StopOptions) -> None:
        """While a hand-over drains, the lease is still ours, but nothing may be started any more."""
        self._signed(self._lease.view.me.text, clock.boottime())
        self._targets.end(stop)
        if self._lease.view.leads:
            self._allow()
        self._tell(partial(messages.stepped_down, self._settings.group, self.node, why), None)

    def _abandon(self) -> None:
        """Leave targets that do not end in all their time to their fences, and wait for these, which may be starved.
        What a fence cannot end hangs in the kernel."""
        is_revoked = self._permit_is(Permit())
        permitted_s = 0.0 if is_revoked else max(0.0, self._permitted_until - clock.boottime())
        clock.sleep(permitted_s + 5 * fence.LATE_S)
        deadline = clock.boottime() + self._times.fence
        while self._targets.is_running and clock.boottime() < deadline:
            clock.sleep(fence.LATE_S)
        names = ", ".join(self._targets.abandon())
        self._say(f"{names}: could not be confirmed as stopped; its fence has killed what it could")

    def _ended(self, name: str, result: Any) -> None:
        if not name:
            self._targets.begun(result)
            return
        text = self._targets.ended(name, result)
        if text:
            self._say(text)

    def _collect(self) -> None:
        with suppress(Empty):
            while True:
                take, result = self._results.get_nowait()
                take(result)

    def _release(self) -> bool:
        """Let the others lead without waiting. Nothing of ours runs any more. False if a permit, or a note for the next
        process, cannot be taken back: the lease is kept until these have run out."""
        self._is_releasing = True  # from now on nothing is written that would bind us for longer
        view = self._lease.view
        self._lease.step_down(_new_life())
        self._token = _Token()
        is_free = self._permit_is(Permit()) and self._keep()
        if not is_free and clock.boottime() < self._bound_until + fence.LATE_S:
            self._lease.view = view
            return False
        # Only now: whoever is killed here and starts again finds on disk that it does not lead.
        self._lease.release(view)
        self._is_releasing = False
        return True

    def _give_up(self) -> None:
        self._permit_is(Permit())
        self._lease.step_down(_new_life())
        self._token = _Token()
        self._keep()

    def _allow(self) -> None:
        self._permit_is(Permit(self._lease.view.acts_until, self._token.number, starts=self._targets.acts))

    def _permit_is(self, wanted: Permit) -> bool:
        try:
            permit.write(self._permit, wanted)
        except OSError as error:
            self._cannot = f"{self._permit} cannot be written: {error.strerror}"
            return False
        self._cannot = ""
        self._permitted_until = wanted.until
        self._bound_until = max(self._bound_until, wanted.until)
        return True

    def _keep(self) -> bool:
        # If the lease was just lost, the targets may still have to be stopped; the next process must not keep them.
        acts = self._targets.acts and self._lease.view.leads
        self._kept = msgspec.structs.replace(
            self._kept, view=self._lease.view, token=self._token.number, acts=acts, notes=self._lease.peers.current()
        )
        self._kept_at = clock.boottime()
        is_saved = memory.save(self._config, self._kept)
        if is_saved:
            self._bound_until = max(self._bound_until, self._lease.view.hold.until)
        return is_saved

    def _news(self) -> dict[str, Any]:
        return {"token": self._token.number, "acting": self._targets.acts}

    def _post(self, take: Callable[[Any], None], result: Any) -> None:
        self._results.put((take, result))
        with suppress(OSError):
            os.write(self._wake, b"\0")

    def _tell(self, head: events.Message, detail: events.Message | None) -> None:
        """Print, record and alert in a thread: the beats do not wait for a disk or for WeCom."""
        self._say(events.english(head, detail))
        self._unrecorded += 1
        job = partial(events.record, self._config, self._settings.group, head, detail)
        in_background(job, partial(self._post, self._recorded))

    def _finish_telling(self) -> None:
        deadline = clock.monotonic() + _TELL_S
        while self._unrecorded and clock.monotonic() < deadline:
            clock.sleep(_LEAST_PAUSE_S)
            self._collect()

    def _recorded(self, result: Any) -> None:
        self._unrecorded -= 1
        if isinstance(result, BaseException):
            self._say(f"This could not be recorded: {told(result)}")


def _new_life() -> str:
    return os.urandom(8).hex()
