"""The lease, as pure steps and as a model: whatever happens on the way, never two leaders by their own deadlines."""

import heapq
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restart_guard.config.options import Standby, Times
from restart_guard.standby import lease
from restart_guard.standby.lease import CANDIDATE, RELEASED, Hold, Mark, Sight, Span, View

TIMES = Times(lease=10.0, beat=1.0, fence=4.0, gap=2.0)
SEEDS = int(os.environ.get("RG_SEEDS", "10000"))
PARTS = 2


def beat(view: View, value: str | None, at: float) -> tuple[View, lease.Change | None]:
    view = lease.read(view, value, Span(at, at), TIMES)
    return view, lease.wanted(view, at, TIMES)


def test_nobody_leads_before_a_whole_lease_of_watching() -> None:
    """An empty key is only marked; the mark, unchanged for a lease, is taken."""
    view, change = beat(View(Mark("a", "1")), None, 100.0)
    assert change is not None
    assert change.new.kind == CANDIDATE
    view = lease.written(view, change, Span(100.0, 100.0), TIMES)
    assert not view.leads
    for at in range(101, 108):
        view, change = beat(view, view.sight.value, float(at))
        assert change is None
    view, change = beat(view, view.sight.value, 108.0)
    assert change is not None
    view = lease.written(view, change, Span(108.0, 108.1), TIMES)
    assert (view.leads, view.hold.until, view.may_act(108.2)) == (True, 112.0, False)
    for sent, confirmed in ((109.0, False), (110.0, False), (110.1, True)):
        view, change = beat(view, view.sight.value, sent)
        assert change is not None
        view = lease.written(view, change, Span(sent, sent), TIMES)
        assert view.may_act(sent) == confirmed


def leader(at: float = 100.0) -> View:
    mark = Mark("a", "1", 7, lease_ms=10000)
    return View(mark, Hold(at + 4.0, True, at - 9), Sight(mark.text, None, at, at, at - 20))


def watcher(value: str | None, seen_at: float, contact_at: float, watching_since: float) -> View:
    return View(Mark("b", "2"), sight=Sight(value, None, seen_at, contact_at, watching_since))


def test_a_leader_puts_back_what_vanished_and_yields_to_another() -> None:
    """Also over a candidate's mark and over an own value that a failover brought back."""
    for value in (None, "candidate|b|9|1|10000", "|a|1|3|10000"):
        view, change = beat(leader(), value, 101.0)
        assert change is not None
        assert change == lease.Change(value, Mark("a", "1", 8).with_times(TIMES))
        assert lease.why_lost(view, 101.0) == ""
    for value in ("|b|9|1|10000", "released|b|9|4|10000", "|a|other life|3|10000", "what somebody typed"):
        view, change = beat(leader(), value, 101.0)
        assert change is None
        assert "has the lease" in lease.why_lost(view, 101.0)
    view, change = beat(leader(), "|a|1|7|10000", 104.0)
    assert (change, lease.why_lost(view, 104.0)) == (None, "the lease could not be renewed in time")


def test_a_renewal_counts_from_when_it_was_sent_and_only_with_its_replicas() -> None:
    """The answer may come late; without acknowledgements the deadline does not move."""
    view, change = beat(leader(), "|a|1|7|10000", 101.5)
    assert change is not None
    assert lease.written(view, change, Span(101.0, 101.4), TIMES).hold.until == 105.0
    assert lease.written(view, change, Span(101.0, 101.4), TIMES, acknowledged=False).hold.until == 104.0
    assert lease.unclear(view, change).me.number == 8


def test_a_released_lease_is_taken_at_once_by_who_has_watched() -> None:
    """A node that has not watched long enough, or did not see the holder, waits."""
    gone = lease.released(leader().me, None, "").new.text
    assert gone == f"{RELEASED}|a|1|8|10000"
    watching = watcher("|a|1|7|10000", 99.0, 99.5, 80.0)
    view, change = beat(watching, gone, 100.0)
    assert change == lease.Change(gone, Mark("b", "2", 1).with_times(TIMES))
    _, change = beat(watching._replace(sight=watching.sight._replace(watching_since=95.0)), gone, 100.0)
    assert change is None
    # A failover brings it back, when somebody else has led since.
    view, _ = beat(view, "|c|3|1|10000", 101.0)
    assert beat(view, gone, 102.0)[1] is None


def test_an_heir_acts_at_once_and_nobody_else_does() -> None:
    """Until it is confirmed; but not when it was away just before, and so cannot know what others have seen."""
    watching = watcher(None, 80.0, 80.0, 80.0)
    for at in range(81, 100):
        watching, change = beat(watching, f"|a|1|{at}|10000", float(at))
        assert change is None
    gone = lease.released(leader().me, None, "2").new.text
    view, change = beat(watching, gone, 99.5)
    assert change is not None
    view = lease.written(view, change, Span(99.5, 99.6), TIMES)
    assert not view.hold.confirmed
    assert [view.may_act(at) for at in (99.6, 103.4, 103.5)] == [True, True, False]
    assert beat(watching._replace(me=Mark("c", "3")), gone, 99.5)[1] is None
    # Others may know silences of nearly a lease: of a holder that was slow, or that we have hardly seen.
    for past in (watching.sight.past[-1:], watching.sight.past[:-7]):
        view, change = beat(watching._replace(sight=watching.sight._replace(past=past)), gone, 99.5)
        assert change is not None
        view = lease.written(view, change, Span(99.5, 99.6), TIMES)
        assert (view.leads, view.may_act(99.6)) == (True, False)
    assert beat(watching, gone, 101.1)[1] is None


def test_silence_counts_only_while_we_are_there() -> None:
    """Cut off for longer than the gap, the watch begins anew."""
    watching = watcher("|a|1|7|10000", 50.0, 99.0, 50.0)
    assert beat(watching, "|a|1|7|10000", 100.0)[1] is not None
    view, change = beat(watching, "|a|1|7|10000", 101.1)
    assert (change, view.sight.seen_at, view.sight.watching_since) == (None, 101.1, 101.1)


def test_a_holder_with_a_longer_lease_is_given_its_time() -> None:
    """Configs that differ while they are changed host by host."""
    watching = watcher("|a|1|7|20000", 50.0, 67.0, 40.0)
    assert beat(watching, "|a|1|7|20000", 67.9)[1] is None
    assert beat(watching, "|a|1|7|20000", 68.0)[1] is not None


def test_marks_survive_their_text() -> None:
    """A mark that was written is read back unchanged."""
    marks = [Mark("主机", "l", 3), Mark("a", "b", 0, RELEASED, 900, "heir"), Mark("a", "b", 12, CANDIDATE, token=7)]
    for mark in (*marks, *(one.with_times(TIMES) for one in marks)):
        assert Mark.parse(mark.text) == mark
    assert marks[0].with_times(TIMES).times == TIMES


def test_the_highest_token_is_not_forgotten() -> None:
    """Whoever has read it writes it on, in a new process lifetime too; a number beyond all measure is nobody's."""
    view, change = beat(watcher("|a|1|7|10000||41", 50.0, 99.0, 40.0), "|a|1|7|10000||41", 100.0)
    assert change is not None
    assert change.new.token == 41
    view, _ = beat(lease.stepped_down(view, "3"), "|a|1|8|10000||40", 100.5)
    assert view.me == Mark("b", "3", token=41)
    view, _ = beat(view, f"|a|1|9|10000||{'9' * 15}", 101.0)
    assert view.me.token == 41


@given(st.text())
def test_any_value_may_stand_there(text: str) -> None:
    """It is somebody's, and has to be unchanged for a lease like any other."""
    mark = Mark.parse(text)
    assert mark.text == text or (mark.life, mark.kind) == ("?", "")


class World:
    """One value in Redis, three nodes on clocks of their own, and whatever can happen to what they say."""

    def __init__(self, times: Times, chance: random.Random, faults: dict[str, float]) -> None:
        self.times = times
        self.chance = chance
        self.faults = faults
        self.value: str | None = None
        self.past: list[str | None] = [None]
        self.heir = ""
        self.now = 0.0
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.leading: list[tuple[float, float, str]] = []
        self.last_reset = -100.0

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.queue, (self.now + seconds, self.count, what))

    def happens(self, fault: str) -> bool:
        return self.chance.random() < self.faults.get(fault, 0.0)

    def delay(self) -> float:
        return self.chance.random() * (8.0 if self.happens("slow") else 0.3)

    def pause(self) -> float:
        return self.chance.random() * 30 if self.happens("pause") else 0.0

    def run(self, until: float) -> None:
        while self.queue and self.queue[0][0] < until:
            self.now, _, what = heapq.heappop(self.queue)
            if self.happens("reset") and self.now - self.last_reset > self.times.lease:
                self.last_reset = self.now
                self.value = self.chance.choice([None, *self.past[-self.chance.choice([3, 3, 10]) :]])
            what()

    def two_at_once(self) -> tuple[Any, ...] | None:
        until: dict[str, float] = {}
        for begun, end, name in sorted(one for one in self.leading if one[1] > one[0]):
            for other, other_end in until.items():
                if other != name and other_end > begun:
                    return begun, name, other, other_end
            until[name] = max(end, until.get(name, 0.0))
        return None


class Node:
    """A host that does each beat what the protocol says, on a clock that drifts. Its answers may be late or lost, a
    request whose answer is lost may take effect later; it may be paused between any decision and its act, killed at
    each step and started anew with its note, and its disk may refuse to take the note."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.offset = world.chance.random() * 1000
        self.rate = 1 + world.chance.uniform(-1, 1) * world.faults.get("drift", 0.0)
        self.note: View | None = None
        self.bound = self.deaf_until = 0.0
        self.process = 0
        self.world.later(self.world.chance.random(), self.born)

    def new_life(self) -> str:
        return f"{self.world.chance.random()}"

    def clock(self) -> float:
        return self.world.now * self.rate + self.offset

    def later(self, seconds: float, step: Callable[..., None], *arguments: Any) -> None:
        """In this process: if it is killed meanwhile, nothing comes of it."""
        process = self.process

        def go() -> None:
            if process == self.process:
                if self.world.happens("reborn"):
                    self.process += 1
                    self.world.later(self.world.chance.random(), self.born)
                else:
                    step(*arguments)

        self.world.later(seconds / self.rate, go)

    def born(self) -> None:
        self.process += 1
        self.is_releasing = False
        self.view = self.note or View(Mark(self.name, self.new_life()))
        if self.view.leads and self.clock() >= self.view.hold.until:
            self.view = lease.stepped_down(self.view, self.new_life())
        else:
            self.view = self.view._replace(me=self.view.me._replace(number=self.view.me.number + 1))
        self.bound = self.view.hold.until
        self.act()
        self.read()

    def is_lost(self) -> bool:
        """Whether the answer will not come: now and then one, or for a while nearly all."""
        if self.world.happens("lost") and self.world.chance.random() < 0.3:
            self.deaf_until = self.world.now + self.world.chance.random() * 2 * self.world.times.lease
        return self.world.happens("lost") or (self.world.now < self.deaf_until and self.world.chance.random() < 0.8)

    def save(self) -> bool:
        """The note, with which the next process goes on."""
        if self.world.happens("unwritten"):
            return False
        self.note = self.view
        self.bound = max(self.bound, self.view.hold.until)
        return True

    def act(self) -> None:
        """From now until its deadline, whatever becomes of the process: the fence ends it."""
        if self.view.may_act(self.clock()) and not self.is_releasing:
            until = self.view.acts_until
            self.bound = max(self.bound, until)
            self.world.leading.append((self.world.now, (until - self.offset) / self.rate, self.name))

    def again(self) -> None:
        self.later(lease.next_beat(self.view, self.clock(), self.world.times) + self.world.pause(), self.read)

    def read(self) -> None:
        sent = self.clock()

        def there() -> None:
            value = self.world.value
            if self.is_lost():
                self.later(0.5, self.again)
            else:
                self.later(self.world.delay(), self.got, value, sent)

        self.world.later(self.world.delay(), there)

    def got(self, value: str | None, sent: float) -> None:
        self.view = lease.read(self.view, value, Span(sent, self.clock()), self.world.times)
        if lease.why_lost(self.view, self.clock()):
            self.view = lease.stepped_down(self.view, self.new_life())
            self.is_releasing = False
            self.save()
        change = lease.wanted(self.view, self.clock(), self.world.times)
        if self.is_releasing or (self.view.may_act(self.clock()) and self.world.happens("leave")):
            self.leave(change)
        elif change is None:
            if not self.view.leads and lease.has_watched(self.view, self.clock(), self.world.times):
                self.world.heir = self.view.me.life
            self.again()
        else:
            self.later(self.world.pause(), self.write, change)

    def write(self, change: lease.Change) -> None:
        sent, lost = self.clock(), self.is_lost()

        def there() -> None:
            done = self.world.value == change.expected
            if done:
                self.world.value = change.new.text
                self.world.past.append(change.new.text)
            if not lost:
                self.later(self.world.delay(), self.done if done else self.refused, change, sent)

        self.world.later(self.world.delay(), there)
        if lost:
            self.later(0.5, self.unclear, change)

    def done(self, change: lease.Change, sent: float) -> None:
        if change.new.kind != RELEASED:
            self.view = lease.written(self.view, change, Span(sent, self.clock()), self.world.times)
            self.act()
            if self.view.leads and not self.is_releasing:
                self.save()
        self.again()

    def leave(self, change: lease.Change | None) -> None:
        """Nothing of it acts any more. Then the release is sent, at once or after a pause; but as long as an old note
        binds it, the lease is renewed instead."""
        self.is_releasing = True
        view, self.view = self.view, lease.stepped_down(self.view, self.new_life())
        if not self.save() and self.clock() < self.bound:
            self.view = view
            if change is None:
                self.again()
            else:
                self.write(change)
            return
        leading, now = self.world.leading, self.world.now
        leading[:] = [(begun, min(end, now) if name == self.name else end, name) for begun, end, name in leading]
        self.is_releasing = False
        heir = self.world.heir if self.world.chance.random() < 0.8 else ""
        self.later(self.world.pause(), self.write, lease.released(view.me, view.sight.value, heir))

    def refused(self, _change: lease.Change, _sent: float) -> None:
        self.again()

    def unclear(self, change: lease.Change) -> None:
        """Within the beat the connection is made anew, or in the next one."""
        self.view = lease.unclear(self.view, change)
        self.later(0.0, self.read if self.world.chance.random() < 0.5 else self.again)


# What is given where a config says nothing; and the narrowest that a config may say where no failover loses writes.
DEFAULT, TIGHT = Standby(group="g").times, Times(lease=10.0, beat=1.0, fence=6.9, gap=2.0)
RARE = ("lost", "slow", "pause", "reborn", "reset", "leave", "unwritten")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("times", [DEFAULT, TIGHT], ids=["default", "tight"])
def test_never_two_leaders(times: Times, part: int) -> None:
    """Any interleaving of beats, delays, lost answers, pauses, deaths, new processes with old notes, clocks that drift
    by a hundredth, and values that vanish or come back."""
    first = random.SystemRandom().randrange(2**32) + part
    for seed in range(first, first + SEEDS // 2 // PARTS):
        chance = random.Random(seed)
        faults = {name: chance.choice([0.0, 0.02, 0.2]) for name in RARE} | {"drift": 0.01}
        if times is TIGHT:
            del faults["reset"]
        world = World(times, chance, faults)
        for name in ("a", "b", "c"):
            Node(world, name)
        world.run(40 * times.lease)
        assert world.two_at_once() is None, (seed, faults)
        if sum(faults.values()) == faults["drift"]:
            assert world.leading
            assert world.leading[0][0] <= times.lease + times.gap + 10 * times.beat
