"""Which of several hosts may run the targets: a lease that each host judges by the changes it sees, on its own clock.
Pure.

The lease is one value in Redis. Its holder changes it each beat by compare-and-set and may act until ``fence`` after a
good renewal was *sent*. All others watch. A host that has seen it unchanged for a whole ``lease`` may act in turn; it
must have claimed it a ``gap`` before. Neither the key's TTL nor any wall clock decides anything: a value that vanishes,
an empty server or a clock that jumps only makes others wait again.

A holder that hands over names an heir, which need not wait.

Times are seconds of CLOCK_BOOTTIME of the own host, which also counts time in suspend. The protocol needs fence + gap +
beat < lease; the README says what it cannot cover.
"""

from functools import lru_cache
from typing import NamedTuple

from restart_guard.config.options import Times

_LONGEST, _DIGITS, _SHOWN = 1000, 15, 100  # of a stranger's value
_LONGEST_LEASE_MS = 24 * 3600 * 1000
_HIGHEST_TOKEN = 10 ** (_DIGITS - 1)
RELEASED = "released"
CANDIDATE = "candidate"


class Mark(NamedTuple):
    """A value of the lease: which node wrote it, in which process lifetime, and its sequence number.

    ``kind`` is empty for a holder's value, RELEASED if the lease is free, CANDIDATE for a mark that a watching node
    puts in an empty key. ``heir`` is the process lifetime of the only node that may take a released lease at once;
    without an heir all may. ``token`` is the highest fencing token that the writer knows of. The rest are the writer's
    times, in milliseconds, in case the configs of the hosts differ; 0 is unknown.
    """

    node: str
    life: str
    number: int = 0
    kind: str = ""
    lease_ms: int = 0
    heir: str = ""
    token: int = 0
    beat_ms: int = 0
    fence_ms: int = 0
    gap_ms: int = 0

    @property
    def text(self) -> str:
        """What stands in Redis; what is empty at the end is left out."""
        late = [str(number or "") for number in (self.token, self.beat_ms, self.fence_ms, self.gap_ms)]
        words = [self.kind, self.node, self.life, str(self.number), str(self.lease_ms), self.heir, *late]
        return "|".join(words).rstrip("|")

    @property
    def lease(self) -> float:
        return self.lease_ms / 1000

    @property
    def times(self) -> Times:
        return Times(*(ms / 1000 for ms in (self.lease_ms, self.beat_ms, self.fence_ms, self.gap_ms)))

    @classmethod
    def parse(cls, text: str) -> "Mark":
        """Parse a value. A value that we did not write counts as another node's, and is watched like any other."""
        return _parsed(text) if len(text) <= _LONGEST else cls(text[:_SHOWN], "?")

    @classmethod
    def _parse(cls, text: str) -> "Mark":
        words = text.split("|")
        kind, node, life, *numbers = [*words, *[""] * 10][:10]
        heir = numbers.pop(2)
        is_short = all(len(one) <= _DIGITS and one.isdecimal() for one in numbers if one)
        if is_short and kind in ("", RELEASED, CANDIDATE):
            number, lease_ms, token, beat_ms, fence_ms, gap_ms = (int(one or 0) for one in numbers)
            mark = cls(node, life, number, kind, lease_ms, heir, token, beat_ms, fence_ms, gap_ms)
            if mark.text == text and mark.lease_ms <= _LONGEST_LEASE_MS:
                return mark
        return cls(text[:_SHOWN], "?")

    def with_times(self, times: Times) -> "Mark":
        lease_ms, beat_ms, fence_ms, gap_ms = (round(seconds * 1000) for seconds in times)
        return self._replace(lease_ms=lease_ms, beat_ms=beat_ms, fence_ms=fence_ms, gap_ms=gap_ms)


@lru_cache(maxsize=64)
def _parsed(text: str) -> Mark:
    """A value is looked at several times in each beat."""
    return Mark._parse(text)  # noqa: SLF001 (the cache of its parse)


def holder(value: str | None) -> str | None:
    """The node that holds the lease by this value; None if nobody does."""
    mark = None if value is None else Mark.parse(value)
    return mark.node if mark is not None and not mark.kind else None


class Hold(NamedTuple):
    """A node's own hold of the lease. It must have stopped acting at ``until``: 0 if it does not lead. It may act only
    once the lease is ``confirmed``; an heir may act before that, until ``early_until``. ``claimed_at`` is when the
    claim's answer came.
    """

    until: float = 0.0
    confirmed: bool = False
    claimed_at: float = 0.0
    early_until: float = 0.0


class Sight(NamedTuple):
    """The values of the lease that a node has read: the last one, the one ``before`` it, and when the last one was
    first read.

    ``contact_at`` is when the last good read was sent, ``watching_since`` when the first read of an unbroken series
    came back. ``past`` holds, for each of the latest values, when it was first read and after which moment it was
    written.
    """

    value: str | None = None
    before: str | None = None
    seen_at: float = 0.0
    contact_at: float = float("-inf")
    watching_since: float = 0.0
    past: tuple[tuple[float, float], ...] = ()

    @property
    def mark(self) -> Mark | None:
        return None if self.value is None else Mark.parse(self.value)


class View(NamedTuple):
    """The knowledge of a node: the mark that it wrote last, its own hold of the lease, and what it has read. The
    ``token`` of its mark is the highest that it has seen anywhere."""

    me: Mark
    hold: Hold = Hold()
    sight: Sight = Sight()

    @property
    def leads(self) -> bool:
        return self.hold.until > 0

    @property
    def acts_until(self) -> float:
        return self.hold.until if self.hold.confirmed else min(self.hold.until, self.hold.early_until)

    def may_act(self, now: float) -> bool:
        return now < self.acts_until


class Change(NamedTuple):
    """A compare-and-set: from this value (None: no key) to a new one."""

    expected: str | None
    new: Mark


class Span(NamedTuple):
    """The times of a request and its answer; it took effect somewhere in between."""

    sent: float
    came: float


def read(view: View, value: str | None, span: Span, times: Times) -> View:
    """The view after a good read. Silence counts only while this node was connected."""
    sight = view.sight
    if span.came - sight.contact_at > times.gap:
        sight = Sight(value, seen_at=span.came, watching_since=span.came)
    elif value != sight.value:
        # A read that was sent after these gave another value, so this one was written later.
        kept = [one for one in sight.past if span.came - one[0] <= 2 * times.lease]
        past = (*kept, (span.came, sight.contact_at))
        sight = sight._replace(value=value, before=sight.value, seen_at=span.came, past=past)
    seen = 0 if value is None else Mark.parse(value).token
    return knowing(view._replace(sight=sight._replace(contact_at=span.sent)), seen)


def knowing(view: View, token: int) -> View:
    """The view of who has seen this fencing token. A number beyond all measure is nobody's."""
    is_news = view.me.token < token <= _HIGHEST_TOKEN
    return view._replace(me=view.me._replace(token=token)) if is_news else view


def wanted(view: View, now: float, times: Times) -> Change | None:
    """The change to write after the read of this beat."""
    mark = view.sight.mark
    new = view.me.with_times(times)._replace(number=view.me.number + 1, kind="")
    if view.leads:
        return Change(view.sight.value, new) if now < view.hold.until and _may_renew(view, mark) else None
    if mark is None:
        return Change(None, new._replace(kind=CANDIDATE))
    if (mark.node, mark.life, mark.kind) == (view.me.node, view.me.life, ""):
        return Change(view.sight.value, new)  # our own claim, whose answer was lost: claimed anew, from now on
    # A node that claims now may act a gap later. The holder's config may have a longer lease than ours.
    is_silent = now - max(view.sight.seen_at, view.sight.watching_since) >= max(times.lease, mark.lease) - times.gap
    # A node that has handed over does not take the lease back at once.
    is_ours = mark.heir == view.me.life if mark.heir else mark.node != view.me.node
    is_free = mark.kind == RELEASED and is_ours and _is_of_holder(mark, view.sight.before)
    return Change(view.sight.value, new) if has_watched(view, now, times) and (is_silent or is_free) else None


def _is_of_holder(released: Mark, before: str | None) -> bool:
    """Whether the node that released the lease held it just before, as we saw; otherwise a failover may have restored
    an old mark."""
    if before is None:
        return False
    mark = Mark.parse(before)
    return (mark.node, mark.life, mark.kind) == (released.node, released.life, "")


def has_watched(view: View, now: float, times: Times) -> bool:
    """Whether it has watched long enough to claim the lease, or to be an heir."""
    return now - view.sight.watching_since >= times.lease - times.gap


def _may_renew(view: View, mark: Mark | None) -> bool:
    """Over its own value, of any sequence number, since a failover may have lost some; over no value; and over a
    candidate's, which only watches: it is put back."""
    if mark is None or mark.kind == CANDIDATE:
        return True
    return (mark.node, mark.life, mark.kind) == (view.me.node, view.me.life, "")


def written(view: View, change: Change, span: Span, times: Times, *, acknowledged: bool = True) -> View:
    """The view after a change that took place. It counts from when it was sent, and only if enough replicas have it.

    A claim alone gives no right to act: a failover may lose it before anybody else has read it, and another node, which
    saw the same silence, claims the lease once more. It is confirmed by a renewal that was sent a gap later: by then
    each node has read it, or starts to count its silence again.

    An heir may act before that, as long as it can be sure that nobody has seen a silence of a whole lease: if all that
    was written since the others last read is lost, they have seen a value that was there within a gap of the release.
    """
    sight, hold = view.sight._replace(value=change.new.text, seen_at=span.came), view.hold
    view = view._replace(me=change.new, sight=sight)
    if change.new.kind or not acknowledged or (view.leads and span.sent >= hold.until):
        return view  # sent after its own deadline: the targets are ended by then
    until = span.sent + times.fence
    if not view.leads:
        before = Mark("", "") if change.expected is None else Mark.parse(change.expected)
        is_heir = before.heir == change.new.life
        early = _nobody_acts_before(sight, min(times.lease, before.lease), times.gap) - times.beat if is_heir else 0.0
        early = early if early >= span.came + times.gap + times.beat else 0.0
        return view._replace(hold=Hold(until, claimed_at=span.came, early_until=early))
    confirmed = hold.confirmed or span.sent - hold.claimed_at >= times.gap
    return view._replace(hold=hold._replace(until=until, confirmed=confirmed))


def _nobody_acts_before(sight: Sight, lease: float, gap: float) -> float:
    """One lease after the earliest moment at which the value before the current one, or any that was there up to a gap
    before, can have been written. Zero if nothing is known about it."""
    if not sight.past:
        return 0.0
    there_at = sight.past[-1][1] - gap
    written_after = max((after for seen_at, after in sight.past if seen_at <= there_at), default=-lease)
    return written_after + lease


def unclear(view: View, change: Change) -> View:
    """The view after a change whose answer was lost: it may have taken place, and its number must not be used again."""
    return view._replace(me=view.me._replace(number=change.new.number))


def next_beat(view: View, now: float, times: Times) -> float:
    """Seconds until there is something to do again: a beat, or less if a certain moment is waited for."""
    moments = [times.beat]
    if view.leads and not view.hold.confirmed:
        moments.append(view.hold.claimed_at + times.gap - now)
    elif not view.leads:
        watched = (view.sight.seen_at, view.sight.watching_since)
        moments += [since + times.lease - times.gap - now for since in watched]
    return min((moment for moment in moments if moment > 0), default=times.beat)


def why_lost(view: View, now: float) -> str:
    """The reason why a leader has to stop acting now; empty if it need not."""
    if not view.leads:
        return ""
    if now >= view.hold.until:
        return "the lease could not be renewed in time"
    if view.hold.early_until and not view.hold.confirmed and now >= view.hold.early_until:
        return "the lease could not be confirmed in time"
    mark = view.sight.mark
    if mark is not None and not _may_renew(view, mark):
        return f"{mark.node} has the lease"
    return ""


def stepped_down(view: View, life: str) -> View:
    """The view of a watcher again, in a new process lifetime: its earlier marks then count as another node's."""
    return view._replace(me=Mark(view.me.node, life, token=view.me.token), hold=Hold())


def released(mark: Mark, value: str | None, heir: str) -> Change:
    """The change that ends the leadership of ``mark`` once nothing of ours acts any more, where the lease has this
    value: the others need not wait or, if there is an heir, only the heir need not."""
    return Change(value, mark._replace(number=mark.number + 1, kind=RELEASED, heir=heir))
