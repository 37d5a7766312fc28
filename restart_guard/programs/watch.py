"""Waits for the end of all targets at once, and relaunches a target as soon as it exits.

Only the launch itself is done between a death and a relaunch. A thread writes the journal, and whatever may take long
(a graceful restart, the orphans of a dead program, a probe, a search) has a thread too.

Killing the watch at any instant harms nothing: the targets are in sessions of their own, their identities are on disk,
and the next watch or tick goes on from there.
"""

import gc
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple
from urllib.parse import quote

from restart_guard import clock
from restart_guard.backoff import delay
from restart_guard.config.options import Config
from restart_guard.durations import span
from restart_guard.host import children, process_table
from restart_guard.host.family import Ending, Family, members
from restart_guard.host.folder_events import FolderEvents
from restart_guard.host.identity import Facts, Identity
from restart_guard.lock import held
from restart_guard.programs import actions, processes, tick
from restart_guard.programs.crashes import Crashes, Death
from restart_guard.programs.journal_writer import JournalWriter
from restart_guard.programs.launch import how_it_ended
from restart_guard.programs.lifecycle import Command, State
from restart_guard.programs.observe import observe
from restart_guard.programs.results import ActionOptions, ActionResult, held_up, longest_s
from restart_guard.programs.target import Target
from restart_guard.threads import BackgroundWriter, in_background

_SCAN_S = 120.0  # cron's ticks, if there are any, look each minute
_PUBLISH_S = 60.0
_WEIGH_S = 60.0  # as a tick
_SCAN_BLIND_S = 1.0  # if the kernel does not report changes in folders
_NOT_WELL_S = 5.0
_PERMIT_S = 0.5  # a target of a group may be started as soon as its host leads
_STUCK_S = 60.0  # as a tick would look
_OTHER_FILES = 24  # descriptors for the journal, locks, probes and one action
_FILES_OF_AN_ACTION = 8
_AGAIN_FIRST_S = 0.01
_AGAIN_CAP_S = 1.0
_FLUSH_S = 10.0
_SWITCH_S = 0.0001  # a death must not wait 5 ms for another thread of ours

Say = Callable[[ActionResult], None]


class Options(NamedTuple):
    """For how long to watch, whether to wait for another watch to end, and what to call when states have changed or a
    minute has passed."""

    for_s: float | None = None
    wait: bool = False
    publish: Callable[[], None] | None = None


def run(config: Config, targets: Sequence[Target], say: Say, options: Options) -> None:
    """Watch until SIGTERM or SIGINT, or for a time.

    Only one process may watch a config, or a choice of its targets. Another raises BusyError, or with ``wait`` waits
    for the first to end; only one may wait, so that cron, which starts one each minute, never piles them up.
    """
    processes.prepare()
    sys.setswitchinterval(_SWITCH_S)
    chosen = [] if len(targets) == len(config.targets) else sorted(target.name for target in targets)
    mark = quote(os.fsencode(os.pathsep.join([str(config.path), *chosen])), safe="")
    what = f"A watch of {config.path}"
    with suppress(_Left), BackgroundWriter(say) as aside, ExitStack() as last, ExitStack() as locks:
        leaving = _Leaving()
        with (
            held(config.state_dir, [f"next-watch-{mark}"], what=f"A waiting watch of {config.path}")
            if options.wait
            else nullcontext()
        ):
            locks.enter_context(held(config.state_dir, [f"watch-{mark}"], what=what, fallback=False, wait=options.wait))
        watch = _Watch(config, targets, aside.say, leaving, options.publish)
        last.callback(watch.close)  # after the lock is free, so that a waiting watch need not wait for our journal
        watch.run(None if options.for_s is None else clock.monotonic() + options.for_s)


def _wake_up(_number: int, _frame: object) -> None:
    """The signal's byte in the pipe has done it."""


class _Left(BaseException):
    """A signal came while this process waited for another watch to end."""


class _Leaving:
    """Whether SIGTERM or SIGINT has come. A watch that runs finishes what it has begun."""

    def __init__(self) -> None:
        self.asked = False
        self.watching = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._come)

    def _come(self, _number: int, _frame: object) -> None:
        self.asked = True
        if not self.watching:
            raise _Left


class _Watched:
    """A target in the watch, and what is going on with it. Times are those of ``clock.monotonic``."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.process: Identity | None = None  # the one whose end is waited for
        self.child: subprocess.Popen[bytes] | None = None  # the same, if it was launched here
        self.look_at: float | None = None
        is_probed = target.settings.health is not None or target.settings.max_memory is not None
        self.probe_at: float | None = 0.0 if is_probed else None
        self.weigh_at = 0.0
        self.is_busy = False  # a thread acts on it
        self.is_without_room = False  # there are not enough descriptors to wait for its end
        self.tries = 0  # unfinished tries in a row
        self.busy_since: float | None = None  # somebody else acts on it; infinity once that has been told
        self.last: Death | None = None  # until it is relaunched
        self.ended_process: Identity | None = None

    @property
    def name(self) -> str:
        return self.target.name

    def look_by(self, moment: float) -> None:
        """Look at it at this moment, or before."""
        self.look_at = moment if self.look_at is None else min(self.look_at, moment)

    def has_ended(self, process: Identity) -> Ending:
        """Take note of the end of a process."""
        child, self.child = self.child, None
        is_launched = child is not None and child.pid == process.pid
        status = child.wait() if child is not None and is_launched else children.collect(process.pid)
        uptime_s = process_table.uptime_s(process)
        self.process = None
        self.last = Death(status, uptime_s, is_seen=True, at=clock.now().timestamp())
        self.ended_process = process
        return Ending(status, soon=uptime_s < self.target.settings.start_timeout)

    @property
    def ended(self) -> str:
        """How it ended and after what time, for the message about the relaunch; empty if it did not."""
        if self.last is None:
            return ""
        how = "ended" if self.last.status is None else how_it_ended(self.last.status)
        return f"{how} after {span(self.last.lived_s)}"


class _Death(NamedTuple):
    """A process that has just ended."""

    watched: _Watched
    process: Identity
    ending: Ending
    was_launched: bool


class _Watch:
    def __init__(
        self,
        config: Config,
        targets: Sequence[Target],
        say: Say,
        leaving: _Leaving,
        publish: Callable[[], None] | None,
    ) -> None:
        self._targets = {target.name: _Watched(target) for target in targets}
        self._say = say
        self._leaving = leaving
        self._last_errors: dict[str, str] = {}  # of the targets, and of the journal
        leaving.watching = True
        self._deaths = process_table.Deaths()
        self._results: SimpleQueue[tuple[str, bool, ActionResult | BaseException | None]] = SimpleQueue()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._deaths.listen(self._woken)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        free = max(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES)
        self._room, self._at_once = free, max(1, free // _FILES_OF_AN_ACTION)
        self._keep_house_at = 0.0
        self._last_trouble = ""
        if os.getpid() == 1:
            self._reap_at_once()
        self._ended_already: list[Identity] = []  # before they could be waited for
        self._folders = FolderEvents()
        if self._folders.fd is not None:
            self._deaths.listen(self._folders.fd)
        self._scan_s = _SCAN_S if publish is None else _PUBLISH_S
        self._writer = JournalWriter(config, lambda result: self._post("", result, act=False), publish)

    def close(self) -> None:
        self._writer.finish(_FLUSH_S)
        self._collect()
        signal.set_wakeup_fd(-1)
        self._deaths.close()
        self._folders.close()
        os.close(self._woken)
        os.close(self._wake)

    def run(self, until: float | None) -> None:
        gc.set_threshold(700)  # Python's own, for a process that stays
        gc.freeze()  # objects that exist now stay: the collector need not visit them again and again
        next_scan = 0.0
        every = self._targets.values()
        while not self._leaving.asked and (until is None or clock.monotonic() < until):
            now = clock.monotonic()
            if now >= next_scan:
                next_scan = now + self._scan()
            self._look([one for one in every if one.look_at is not None and one.look_at <= now])
            self._probe([one for one in every if one.probe_at is not None and one.probe_at <= now])
            moments = [at for one in every for at in (one.look_at, one.probe_at) if at is not None]
            moments += [next_scan] + ([until] if until else [])
            patience_s = 0.0 if self._ended_already else max(0.0, min(moments) - clock.monotonic())
            ended, ready = self._deaths.wait(patience_s)
            before, self._ended_already = self._ended_already, []
            self._relaunch([*before, *ended])
            if ready:
                with suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                changed = self._folders.changed()
                self._look([one for one in every if one.target.lock.path in changed])
                if any(one.target.lock.path.parent in changed for one in every):
                    next_scan = 0.0
            self._collect()
            if children.reap(keep=[one.process.pid for one in every if one.process is not None]):
                self._reap_at_once()
        self._finish_what_is_begun()

    @staticmethod
    def _reap_at_once() -> None:
        """From now on orphans are reaped when they end, and not at the next wakeup. Not from the start: a signal more
        at each death delays the relaunch."""
        signal.signal(signal.SIGCHLD, _wake_up)

    def _scan(self) -> float:
        """Look for what no event has told: new folders, changed states. Then the housekeeping. Returns the seconds to
        the next time."""
        targets = [one.target for one in self._targets.values()]
        trouble = self._folders.listen(target.lock.path.parent for target in targets)
        # Running targets are waited for, and their pid locks watched: no need to look at them again.
        self._look([one for one in self._targets.values() if one.process is None])
        now = clock.monotonic()
        if now >= self._keep_house_at:
            self._keep_house_at = now + self._scan_s
            self._writer.keep_house(targets)
        crowded = sum(one.is_without_room for one in self._targets.values())
        if crowded:
            trouble = f"Only {self._room} processes can be waited for: the limit of open files (ulimit -n) is too low."
        if trouble and trouble != self._last_trouble:
            text = f"{trouble} The rest is looked at every {span(_SCAN_BLIND_S)}."
            self._say(ActionResult("watch", ok=False, text=text))
        self._last_trouble = trouble
        return _SCAN_BLIND_S if trouble else self._scan_s

    def _relaunch(self, ended: Sequence[Identity]) -> None:
        """Relaunch what has just ended before anything else is done; first what has surely left nothing behind.

        For the rest one scan of the process table shows whether anything of their families lives: it may go on as the
        program, or must be ended first.
        """
        by_process = {one.process: one for one in self._targets.values() if one.process is not None}
        deaths = []
        for process in ended:
            watched = by_process.get(process)
            if watched is None:
                continue  # another process runs it by now
            was_launched = watched.child is not None and watched.child.pid == process.pid
            deaths.append(_Death(watched, process, watched.has_ended(process), was_launched))
        # What is left of a launch of ours is in its process group, or has become a child of ours: we are a subreaper.
        has_orphans = any(death.was_launched for death in deaths) and children.orphans() != []
        unsure = [
            death for death in deaths if has_orphans or not death.was_launched or processes.has_group(death.process)
        ]
        self._revive([death for death in deaths if death not in unsure])
        if unsure:
            left = _left_behind([death.watched.target for death in unsure])
            self._revive([death for death in unsure if not left[death.watched.name]])
            for death in unsure:
                if left[death.watched.name]:
                    self._act(death.watched, death.ending)

    def _revive(self, deaths: Sequence[_Death]) -> None:
        simple = [death for death in deaths if not death.watched.is_busy]
        results = actions.revive([(death.watched.target, death.process) for death in simple])
        for death in deaths:
            result = results.get(death.watched.name)
            if result is None:
                self._act(death.watched, death.ending)
            else:
                self._take(death.watched, result)

    def _take(self, watched: _Watched, result: ActionResult) -> None:
        """Go on from what was done to a target."""
        ended = ""
        self._learn_how_it_died(watched)
        if result.event is not None or result.process is not None:
            ended = watched.ended
            result = result._replace(death=watched.last or result.death, at=clock.now().timestamp())
            watched.last = None
        if result.child is not None:
            watched.child = result.child
        self._notice_busy(watched, result)
        if result.busy or (not result.ok and result.process is None and not result.is_stuck):
            self._try_again(watched)
        elif result.process is not None:
            watched.tries = 0
            self._wait_for(watched, result.process)
            if result.crashes:
                watched.look_by(clock.monotonic() + watched.target.settings.restart_backoff.reset_after)
        elif result.is_stuck:
            watched.look_by(clock.monotonic() + _STUCK_S)
        else:
            watched.look_by(0.0)
        if result.event is not None:
            self._writer.put(result._replace(event=f"{ended}: {result.event}" if ended else result.event))
            if ended and result.ok and result.text:
                result = result._replace(text=f"{ended}: {result.text}")
        if not result.busy:
            self._tell(result)

    def _learn_how_it_died(self, watched: _Watched) -> None:
        """The kernel tells it of processes that are not ours too, once their parent has reaped them: a moment after the
        death, for which no relaunch waits."""
        process, watched.ended_process = watched.ended_process, None
        status = None if process is None else self._deaths.exit_status(process)
        if watched.last is not None and watched.last.status is None and status is not None:
            watched.last = watched.last._replace(status=status)

    def _notice_busy(self, watched: _Watched, result: ActionResult) -> None:
        """If somebody else acts on it for longer than that may take, it is news, once."""
        if not result.busy:
            watched.busy_since = None
            return
        now = clock.monotonic()
        watched.busy_since = now if watched.busy_since is None else watched.busy_since
        if now - watched.busy_since > longest_s(watched.target):
            news = held_up(result, now - watched.busy_since)
            watched.busy_since = math.inf
            self._writer.put(news)
            self._tell(news)

    def _tell(self, result: ActionResult) -> None:
        """Say it, but say an error that comes again and again only once."""
        text = result.text or (result.event or "")
        if text and (result.ok or self._last_errors.get(result.name) != text):
            self._say(result._replace(text=text))
        self._last_errors[result.name] = "" if result.ok else text

    def _try_again(self, watched: _Watched) -> None:
        """Somebody else acts on it, or it cannot be done now: soon, then less often."""
        watched.tries += 1
        watched.look_by(clock.monotonic() + delay(watched.tries, first_s=_AGAIN_FIRST_S, cap_s=_AGAIN_CAP_S))

    def _wait_for(self, watched: _Watched, process: Identity) -> None:
        """Wait for the end of this process from now on."""
        if watched.process == process:
            return
        if watched.process is not None:
            self._deaths.remove(watched.process)
            watched.process = None
        waited_for = sum(one.process is not None for one in self._targets.values())
        watched.is_without_room = waited_for >= self._room
        if watched.is_without_room:
            return  # the scan looks at it
        try:
            alive = self._deaths.add(process)
        except PermissionError:
            return  # here too
        watched.process = process
        if not alive:
            self._ended_already.append(process)

    def _look(self, every: Sequence[_Watched]) -> None:
        """See how targets are, and do what that asks for."""
        for watched in every:
            watched.look_at = None
        ours = [watched for watched in every if not watched.is_busy]
        observations = observe([watched.target for watched in ours], search_stopped=False) if ours else {}
        now = clock.monotonic()
        for watched in ours:
            observed, target = observations[watched.name], watched.target
            if observed.process is not None and observed.state is State.RUNNING:
                self._wait_for(watched, observed.process)
                if observed.record.crashes != Crashes():
                    left = target.settings.restart_backoff.reset_after - process_table.uptime_s(observed.process)
                    # It is old enough but still not well: its health check does not pass yet.
                    watched.look_by(now + (left + 0.05 if left > 0 else _NOT_WELL_S))
            elif observed.state is State.BACKOFF and observed.next_try_s is not None:
                watched.look_by(now + observed.next_try_s)
                if watched.ended:
                    text = f"{watched.ended}; next try in {span(observed.next_try_s)} ({observed.why})"
                    self._say(ActionResult(watched.name, ok=True, text=text))
            if observed.process is None and observed.state is not State.STOPPED and not target.may_run:
                watched.look_by(now + _PERMIT_S)
            if observed.process is None and (observed.state is State.STOPPED or not target.may_run):
                watched.last = None  # the time until its next start is no outage
            if tick.needs_care(target, observed):
                self._act(watched)

    def _act(self, watched: _Watched, ending: Ending | None = None) -> None:
        """A tick of one target, in the background."""
        if watched.is_busy:
            return
        if sum(one.is_busy for one in self._targets.values()) >= self._at_once:
            self._try_again(watched)
            return
        watched.is_busy = True
        options = ActionOptions(settle=False, ending=ending)
        job = partial(actions.act, watched.target, Command.TICK, options)
        in_background(job, partial(self._post, watched.name, act=True))

    def _probe(self, every: Iterable[_Watched]) -> None:
        for watched in every:
            health = watched.target.settings.health
            watched.probe_at = clock.monotonic() + (_WEIGH_S if health is None else health.interval)
            if watched.process is not None:
                # Not marked as busy: while it is probed, it may die and be relaunched.
                in_background(partial(_look_after, watched), partial(self._post, watched.name, act=False))

    def _post(self, name: str, result: "ActionResult | BaseException | None", *, act: bool) -> None:
        """Hand on a thread's result; without a name it is about no target (the journal's)."""
        self._results.put((name, act, result))
        with suppress(OSError):  # full: it wakes up anyway; closed: the watch has ended
            os.write(self._wake, b"\0")

    def _collect(self) -> None:
        with suppress(Empty):
            while True:
                name, act, result = self._results.get_nowait()
                if act:
                    self._targets[name].is_busy = False
                if isinstance(result, BaseException):
                    raise result
                if result is not None and name:
                    self._take(self._targets[name], result)
                elif result is not None:
                    self._tell(result)

    def _finish_what_is_begun(self) -> None:
        """A launch that is under way takes milliseconds; what takes longer is completed by the next watch or tick."""
        deadline = clock.monotonic() + 1.0
        while any(one.is_busy for one in self._targets.values()) and clock.monotonic() < deadline:
            clock.sleep(0.01)
            self._collect()


def _left_behind(targets: Sequence[Target]) -> dict[str, Sequence[Facts]]:
    """What lives of the families of targets whose processes have ended, by their records."""
    families: dict[str, Family] = {}
    for target in targets:
        record = target.lock.recorded(process_table.boot_id())
        family = record.family or (Family(record.process, uid=target.uid) if record.process is not None else None)
        if family is not None:
            families[target.name] = family
    left = members(families)
    return {target.name: left.get(target.name, ()) for target in targets}


def _look_after(watched: _Watched) -> ActionResult | None:
    target = watched.target
    observed = observe([target], search_stopped=False)[target.name]
    result = tick.look_after(target, observed)
    if result is None and target.settings.max_memory is not None and clock.monotonic() >= watched.weigh_at:
        watched.weigh_at = clock.monotonic() + _WEIGH_S
        result = tick.weigh(target, observed)
    return result
