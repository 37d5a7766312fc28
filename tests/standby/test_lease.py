"""The lease, as pure steps and as a model: whatever happens on the way, never two leaders by their own deadlines."""

import heapq
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restart_guard.config.options import Times
from restart_guard.standby import lease
from restart_guard.standby.lease import CANDIDATE, RELEASED, Hold, Mark, Sight, Span, View

TIMES = Times(lease=10.0, beat=1.0, fence=4.0, gap=2.0)


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

    def __init__(self, chance: random.Random, faults: dict[str, float]) -> None:
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
        self.handed_over = self.early = 0

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.queue, (self.now + seconds, self.count, what))

    def happens(self, fault: str) -> bool:
        return self.chance.random() < self.faults.get(fault, 0.0)

    def delay(self) -> float:
        return self.chance.random() * (8.0 if self.happens("slow") else 0.3)

    def run(self, until: float) -> None:
        while self.queue and self.queue[0][0] < until:
            self.now, _, what = heapq.heappop(self.queue)
            if self.happens("reset") and self.now - self.last_reset > TIMES.lease:
                self.last_reset = self.now
                self.value = self.chance.choice([None, *self.past[-self.chance.choice([3, 3, 10]) :]])
            what()


class Node:
    """A node that does each beat what the protocol says; its answers may be late or lost, itself paused or reborn."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.offset = world.chance.random() * 1000
        self.born()

    def born(self) -> None:
        self.view = View(Mark(self.name, f"{self.world.chance.random()}"))
        self.world.later(self.world.chance.random(), self.read)

    def clock(self) -> float:
        return self.world.now + self.offset

    def again(self) -> None:
        if self.world.happens("reborn"):
            self.born()
        else:
            pause = self.world.chance.random() * 30 if self.world.happens("pause") else 0.0
            self.world.later(lease.next_beat(self.view, self.clock(), TIMES) + pause, self.read)

    def read(self) -> None:
        sent = self.clock()

        def there() -> None:
            value = self.world.value
            if self.world.happens("lost"):
                self.world.later(1.0, self.again)
            else:
                self.world.later(self.world.delay(), lambda: self.got(value, sent))

        self.world.later(self.world.delay(), there)

    def got(self, value: str | None, sent: float) -> None:
        at = self.clock()
        self.view = lease.read(self.view, value, Span(sent, at), TIMES)
        if lease.why_lost(self.view, at):
            self.view = lease.stepped_down(self.view, f"{self.world.chance.random()}")
        change = lease.wanted(self.view, at, TIMES)
        if self.view.may_act(at) and self.world.happens("leave"):
            self.leave(at)
        elif change is None:
            if not self.view.leads and lease.has_watched(self.view, at, TIMES):
                self.world.heir = self.view.me.life
            self.again()
        else:
            self.write(change, at)

    def write(self, change: lease.Change, sent_at: float) -> None:
        lost = self.world.happens("lost")

        def there() -> None:
            done = self.world.value == change.expected
            if done:
                self.world.value = change.new.text
                self.world.past.append(change.new.text)
            answer = self.unclear if lost else self.done if done else self.refused
            self.world.later(self.world.delay(), lambda: answer(change, sent_at))

        self.world.later(self.world.delay(), there)

    def done(self, change: lease.Change, sent_at: float) -> None:
        if change.new.kind != RELEASED:
            self.view = lease.written(self.view, change, Span(sent_at, self.clock()), TIMES)
        if self.view.may_act(self.clock()):
            # It acts from now until its deadline, whatever becomes of the process: the fence ends it.
            self.world.leading.append((self.world.now, self.view.acts_until - self.offset, self.name))
            self.world.early += not self.view.hold.confirmed
        self.again()

    def leave(self, at: float) -> None:
        """Nothing of it acts any more; then the release is sent, at once or after a pause."""
        leading, now = self.world.leading, self.world.now
        leading[:] = [(begun, min(end, now) if name == self.name else end, name) for begun, end, name in leading]
        heir = self.world.heir if self.world.chance.random() < 0.8 else ""
        change = lease.released(self.view.me, self.view.sight.value, heir)
        self.view = lease.stepped_down(self.view, f"{self.world.chance.random()}")
        self.world.handed_over += 1
        pause = self.world.chance.random() * 30 if self.world.happens("pause") else 0.0
        self.world.later(pause, lambda: self.write(change, at + pause))

    def refused(self, _change: lease.Change, _sent_at: float) -> None:
        self.again()

    def unclear(self, change: lease.Change, _sent_at: float) -> None:
        self.view = lease.unclear(self.view, change)
        self.again()


FAULTS: dict[str, Any] = {
    name: st.sampled_from([0.0, 0.02, 0.2]) for name in ("lost", "slow", "pause", "reborn", "reset", "leave")
}


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.fixed_dictionaries(FAULTS))
def test_never_two_leaders(seed: int, faults: dict[str, float]) -> None:
    """Any interleaving of beats, delays, lost answers, pauses, new lives and values that vanish or come back."""
    world = World(random.Random(seed), faults)
    for name in ("a", "b", "c"):
        Node(world, name)
    world.run(400.0)
    spans = sorted(one for one in world.leading if one[1] > one[0])
    until: dict[str, float] = {}
    for begun, end, name in spans:
        for other, other_end in until.items():
            assert other == name or other_end <= begun, (begun, name, other, other_end)
        until[name] = max(end, until.get(name, 0.0))
    if not any(faults.values()):
        assert spans
        assert spans[0][0] <= TIMES.lease + TIMES.gap + 8 * TIMES.beat
