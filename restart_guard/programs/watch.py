"""The tick, in milliseconds: wait for the end of every target at once and relaunch what has ended.

Nothing but the launch stands between a death and a relaunch. The journal is written by a thread, and whatever may take
its time (a graceful restart, what a dead one left behind, a probe, a search) has a thread too.

Killed at any instant it harms nothing: the targets live on in sessions of their own, their identities are on disk, and
the next watch or tick goes on from there.
"""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from queue import Empty, SimpleQueue
from urllib.parse import quote

from restart_guard import clock
from restart_guard.backoff import delay
from restart_guard.config.options import Config
from restart_guard.durations import span
from restart_guard.host import process_table
from restart_guard.host.identity import Identity
from restart_guard.lock import held
from restart_guard.programs import actions, processes, tick
from restart_guard.programs.actions import ActionOptions, ActionResult
from restart_guard.programs.crashes import Crashes
from restart_guard.programs.folder_events import FolderEvents
from restart_guard.programs.journal_writer import JournalWriter
from restart_guard.programs.launch import how_it_ended
from restart_guard.programs.lifecycle import Command, State
from restart_guard.programs.observe import observe
from restart_guard.programs.target import Observation, Target
from restart_guard.threads import beside

_SWEEP_S = 120.0  # cron's ticks, if there are any, look each minute
_SWEEP_BLIND_S = 1.0  # where the kernel does not tell of changes in folders
_NOT_WELL_S = 5.0
_AGAIN_FIRST_S = 0.01
_AGAIN_CAP_S = 1.0
_FLUSH_S = 10.0
_SWITCH_S = 0.0001  # a death must not wait 5 ms for a thread of ours that is at work

Say = Callable[[ActionResult], None]


def run(config: Config, targets: Sequence[Target], say: Say, *, for_s: float | None, wait: bool) -> None:
    """Watch until SIGTERM or SIGINT, or for a time. One a config, or a choice of its targets: raises BusyError while
    another does it, or waits.

    Of those that wait there is one too, so that a cron that starts one each minute never piles them up.
    """
    processes.prepare()
    sys.setswitchinterval(_SWITCH_S)
    chosen = [] if len(targets) == len(config.targets) else sorted(target.name for target in targets)
    mark = quote(os.fsencode(os.pathsep.join([str(config.path), *chosen])), safe="")
    what = f"The watch of {config.path}"
    watch: _Watch | None = None
    try:
        leaving = _Leaving()
        with ExitStack() as stack:
            with held(config.state_dir, [f"next-watch-{mark}"], what=f"Waiting for: {what}") if wait else nullcontext():
                stack.enter_context(held(config.state_dir, [f"watch-{mark}"], what=what, fallback=False, wait=wait))
            watch = _Watch(config, targets, say, leaving)
            watch.run(None if for_s is None else clock.monotonic() + for_s)
    except _Left:
        return
    finally:
        if watch is not None:
            watch.close()  # only now: whoever waits need not wait for our journal


class _Left(BaseException):
    """A signal to leave, while waiting for another watch to end."""


class _Leaving:
    """Whether SIGTERM or SIGINT has come. Once there is a watch, it finishes what it is at."""

    def __init__(self) -> None:
        self.asked = False
        self.watching = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._come)

    def _come(self, _number: int, _frame: object) -> None:
        self.asked = True
        if not self.watching:
            raise _Left


class _Watch:
    def __init__(self, config: Config, targets: Sequence[Target], say: Say, leaving: _Leaving) -> None:
        self._config = config
        self._targets = {target.name: target for target in targets}
        self._say = say
        self._leaving = leaving
        leaving.watching = True
        self._deaths = process_table.Deaths()
        self._known: dict[str, Identity] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._due: dict[str, float] = {}
        self._probes: dict[str, float] = {target.name: 0.0 for target in targets if target.settings.health is not None}
        self._busy: set[str] = set()
        self._tries: dict[str, int] = {}
        self._said: dict[str, str] = {}
        self._ended: dict[str, str] = {}
        self._results: SimpleQueue[tuple[str, bool, ActionResult | BaseException | None]] = SimpleQueue()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._deaths.listen(self._woken)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._folders = FolderEvents()
        if self._folders.fd is not None:
            self._deaths.listen(self._folders.fd)
        self._writer = JournalWriter(config, lambda result: self._post("", result, act=False))

    def close(self) -> None:
        self._writer.finish(_FLUSH_S)
        self._collect()
        signal.set_wakeup_fd(-1)
        self._deaths.close()
        self._folders.close()
        os.close(self._woken)
        os.close(self._wake)

    def run(self, until: float | None) -> None:
        gc.freeze()  # what is there now stays: no need to go through it again and again
        sweep_s = _SWEEP_S if self._folders.fd is not None else _SWEEP_BLIND_S
        next_sweep = 0.0
        while not self._leaving.asked and (until is None or clock.monotonic() < until):
            now = clock.monotonic()
            if now >= next_sweep:
                self._sweep()
                next_sweep = now + sweep_s
            self._look([name for name, at in self._due.items() if at <= now])
            self._probe([name for name, at in self._probes.items() if at <= now])
            moments = [next_sweep, *self._due.values(), *self._probes.values()] + ([until] if until else [])
            ended, ready = self._deaths.wait(max(0.0, min(moments) - clock.monotonic()))
            self._relaunch(ended)
            if ready:
                with suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                locks = self._folders.changed()
                self._look([name for name, target in self._targets.items() if target.lock.path in locks])
                if any(target.lock.path.parent in locks for target in self._targets.values()):
                    next_sweep = 0.0
            self._collect()
        self._finish_what_is_begun()

    def _sweep(self) -> None:
        """What cannot be missed for long: folders that are new, states that nobody told of, house-keeping."""
        self._folders.listen(target.lock.path.parent for target in self._targets.values())
        # Those that run are waited for, and their pid locks listened to: no need to look at them again.
        self._look([name for name in self._targets if name not in self._known])
        self._writer.keep_house(list(self._targets.values()))

    def _relaunch(self, ended: Sequence[Identity]) -> None:
        """What has just ended runs again before anything else is done; first what has surely left nothing behind.

        Of the others (also when only a zombie is left, which init has still to collect) one look for all tells.
        """
        names = {process: name for name, process in self._known.items()}
        gone = {names[process]: (process, self._collected(names[process])) for process in ended}
        for name in gone:
            del self._known[name]
        unsure = {name for name, (process, _) in gone.items() if processes.may_have_kin(process)}
        self._revive({name: gone[name] for name in gone if name not in unsure})
        sessions = processes.living_sessions() if unsure else set()
        orphans = {name for name in unsure if gone[name][0].pid in sessions}
        self._revive({name: gone[name] for name in unsure - orphans})
        for name in orphans:
            self._act(name, ended_well=gone[name][1] == 0)

    def _collected(self, name: str) -> int | None:
        """The exit status of a process that has ended, when it is a child of ours."""
        child = self._children.pop(name, None)
        return child.wait() if child is not None else None

    def _revive(self, gone: Mapping[str, tuple[Identity, int | None]]) -> None:
        # A launcher that ended well may have left a daemon, which only a search finds.
        simple = [name for name, (_, status) in gone.items() if status != 0 and name not in self._busy]
        results = actions.revive([(self._targets[name], gone[name][0]) for name in simple])
        for name, (process, status) in gone.items():
            result = results.get(name)
            if result is None:
                self._act(name, ended_well=status == 0)
                continue
            ended = how_it_ended(status) if status is not None else "ended"
            self._ended[name] = f"{ended} after {span(process_table.uptime_s(process))}"
            self._take(name, result)

    def _take(self, name: str, result: ActionResult) -> None:
        """Go on from what was done to a target."""
        before = self._ended.pop(name, "") if result.event is not None else ""
        if result.child is not None:
            self._children[name] = result.child
        if result.busy or (not result.ok and result.process is None):
            self._again(name)
        elif result.process is not None:
            self._tries.pop(name, None)
            self._register(name, result.process)
            if result.crashes:
                self._due[name] = clock.monotonic() + self._targets[name].settings.restart_backoff.reset_after
        else:
            self._due[name] = 0.0
        if result.event is not None:
            text = f"{before}: {result.event}" if before else result.event
            self._writer.put(result._replace(event=text))
            result = result._replace(
                text=f"{before}: {result.text}" if before and result.ok and result.text else result.text
            )
        if not result.busy:
            self._tell(name, result)

    def _tell(self, name: str, result: ActionResult) -> None:
        """Say it, but an error that comes again and again only once."""
        text = result.text or (result.event or "")
        if text and (result.ok or self._said.get(name) != text):
            self._say(result._replace(text=text))
        self._said[name] = "" if result.ok else text

    def _again(self, name: str) -> None:
        """Somebody else acts on it, or it cannot be done now: soon, then less often."""
        tries = self._tries[name] = self._tries.get(name, 0) + 1
        self._due[name] = clock.monotonic() + delay(tries, first_s=_AGAIN_FIRST_S, cap_s=_AGAIN_CAP_S)

    def _register(self, name: str, process: Identity) -> None:
        if self._known.get(name) == process:
            return
        self._forget(name)
        try:
            alive = self._deaths.add(process)
        except PermissionError:
            return  # the sweep looks at it
        if alive:
            self._known[name] = process
            return
        status = self._collected(name)
        if status is not None:
            self._ended[name] = f"{how_it_ended(status)} after {span(process_table.uptime_s(process))}"
        self._due[name] = 0.0

    def _forget(self, name: str) -> None:
        process = self._known.pop(name, None)
        if process is not None:
            self._deaths.remove(process)

    def _look(self, names: Sequence[str]) -> dict[str, Observation]:
        """See how targets are, and do what that asks for."""
        for name in names:
            self._due.pop(name, None)
        ours = [self._targets[name] for name in names if name not in self._busy]
        observed = observe(ours, search_stopped=False) if ours else {}
        now = clock.monotonic()
        for target in ours:
            found = observed[target.name]
            if found.process is not None and found.state is State.RUNNING:
                self._register(target.name, found.process)
                if found.record.crashes != Crashes():
                    left = target.settings.restart_backoff.reset_after - process_table.uptime_s(found.process)
                    # Old enough already: then it is not well yet, as its health says.
                    self._due[target.name] = now + (left + 0.05 if left > 0 else _NOT_WELL_S)
            elif found.state is State.BACKOFF and found.next_try_s is not None:
                self._due[target.name] = now + found.next_try_s
                if target.name in self._ended:
                    text = f"{self._ended[target.name]}; next try in {span(found.next_try_s)} ({found.why})"
                    self._say(ActionResult(target.name, ok=True, text=text))
            if tick.needs_care(target, found) and found.state is not State.UNKNOWN:
                self._act(target.name)
        return observed

    def _act(self, name: str, *, ended_well: bool = False) -> None:
        """A tick of one target, beside the others."""
        if name in self._busy:
            return
        self._busy.add(name)
        target = self._targets[name]
        job = (
            partial(actions.follow, target)
            if ended_well
            else partial(actions.act, target, Command.TICK, ActionOptions(settle=False))
        )
        beside(job, partial(self._post, name, act=True))

    def _probe(self, names: Iterable[str]) -> None:
        for name in names:
            target = self._targets[name]
            health = target.settings.health
            self._probes[name] = clock.monotonic() + (health.interval if health is not None else 0)
            if name in self._known:
                # Not among the busy: while it is looked at, it may die and be relaunched.
                beside(partial(_look_after, target), partial(self._post, name, act=False))

    def _post(self, name: str, result: "ActionResult | BaseException | None", *, act: bool) -> None:
        self._results.put((name, act, result))
        with suppress(OSError):  # full: it wakes anyway; closed: it has left
            os.write(self._wake, b"\0")

    def _collect(self) -> None:
        with suppress(Empty):
            while True:
                name, act, result = self._results.get_nowait()
                if act:
                    self._busy.discard(name)
                if isinstance(result, BaseException):
                    raise result
                if result is not None and name:
                    self._take(name, result)
                elif result is not None:
                    self._tell(result.name, result)

    def _finish_what_is_begun(self) -> None:
        """A launch that is under way takes milliseconds; what takes longer is completed by the next watch or tick."""
        deadline = clock.monotonic() + 1.0
        while self._busy and clock.monotonic() < deadline:
            clock.sleep(0.01)
            self._collect()


def _look_after(target: Target) -> ActionResult | None:
    return tick.look_after(target, observe([target], search_stopped=False)[target.name])
