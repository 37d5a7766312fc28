"""Who of several hosts may run the targets: a lease that is judged by its changes, seen on one's own clock. Pure.

The lease is one value in Redis. Its holder changes it each beat by compare-and-set and may act until ``fence`` after a
good renewal was *sent*. All others watch; who has seen it unchanged for a whole ``lease`` may set it to their own.
Neither the key's TTL nor anybody's wall clock decides anything: a value that vanishes, an empty server, a clock that
jumps only make others wait anew.

Times are seconds of CLOCK_BOOTTIME of the own host, which goes on through a suspend. The protocol needs fence + gap +
beat < lease; what it cannot cover is told in the README.
"""

from typing import NamedTuple

RELEASED = "released"
CANDIDATE = "candidate"


class Times(NamedTuple):
    """``gap``: how long we may be without Redis ourselves and still count the silence of others."""

    lease: float
    beat: float
    fence: float
    gap: float


class Mark(NamedTuple):
    """A value of the lease: who set it, in which life of theirs, and the how manieth of it.

    ``kind`` is empty for a holder's; a released lease is nobody's, a candidate's marks an empty key to be watched.
    """

    node: str
    life: str
    number: int = 0
    kind: str = ""

    @property
    def text(self) -> str:
        return "|".join([self.kind, self.node, self.life, str(self.number)])

    @classmethod
    def parse(cls, text: str) -> "Mark":
        """Whatever stands there: what is none of ours is somebody else's, and watched like any other value."""
        kind, _, rest = text.partition("|")
        node, _, rest = rest.partition("|")
        life, _, number = rest.partition("|")
        if number.isdecimal() and kind in ("", RELEASED, CANDIDATE) and cls(node, life, int(number), kind).text == text:
            return cls(node, life, int(number), kind)
        return cls(text, "?", 0, "")


class View(NamedTuple):
    """What a node knows. ``me`` is the mark that it set last, ``until`` when it must have stopped acting: 0 when it
    does not lead. It may act only once the lease is ``confirmed``.

    ``seen`` is the value as last read, ``seen_at`` when that was first read; ``contact_at`` when the last good read was
    sent, ``watching_since`` when the first of an unbroken row came; ``claimed_at`` when the claim's answer came.
    """

    me: Mark
    until: float = 0.0
    confirmed: bool = False
    claimed_at: float = 0.0
    seen: str | None = None
    seen_at: float = 0.0
    contact_at: float = float("-inf")
    watching_since: float = 0.0

    @property
    def leads(self) -> bool:
        return self.until > 0

    def may_act(self, now: float) -> bool:
        return self.confirmed and now < self.until


class Change(NamedTuple):
    """A compare-and-set: of this value (None: no key) to a new one."""

    expected: str | None
    new: Mark


class Span(NamedTuple):
    """When a request was sent and its answer came; it took effect somewhere in between."""

    sent: float
    came: float


def read(view: View, value: str | None, span: Span, times: Times) -> View:
    """After a good read. Silence counts only as long as we were there to hear."""
    if span.came - view.contact_at > times.gap:
        return view._replace(seen=value, seen_at=span.came, contact_at=span.sent, watching_since=span.came)
    seen_at = span.came if value != view.seen else view.seen_at
    return view._replace(seen=value, seen_at=seen_at, contact_at=span.sent)


def wanted(view: View, now: float, times: Times) -> Change | None:
    """What to write after the read of this beat."""
    mark = None if view.seen is None else Mark.parse(view.seen)
    new = view.me._replace(number=view.me.number + 1, kind="")
    if view.leads:
        return Change(view.seen, new) if now < view.until and _may_renew(view, mark) else None
    if mark is None:
        return Change(None, new._replace(kind=CANDIDATE))
    has_watched = now - view.watching_since >= times.lease
    # Who has handed over does not take it back at once.
    handed_over = mark.kind == RELEASED and mark.node != view.me.node
    if has_watched and (now - view.seen_at >= times.lease or handed_over):
        return Change(view.seen, new)
    return None


def _may_renew(view: View, mark: Mark | None) -> bool:
    """Over its own value, of whatever number, since a failover may have lost some; over none, and over a candidate's,
    who only watches: it is put back."""
    if mark is None or mark.kind == CANDIDATE:
        return True
    return (mark.node, mark.life, mark.kind) == (view.me.node, view.me.life, "")


def written(view: View, change: Change, span: Span, times: Times, *, acknowledged: bool = True) -> View:
    """After a change that took place. It counts from when it was sent, and only if enough replicas have it.

    A claim alone gives no right to act: a failover may lose it before anybody else has read it, and another node, which
    knows the silence as well, takes the lease once more. It is confirmed by a renewal that was sent a gap later: by
    then each node has read it, or counts its silence anew.
    """
    view = view._replace(me=change.new, seen=change.new.text, seen_at=span.came)
    if change.new.kind or not acknowledged:
        return view
    if not view.leads:
        return view._replace(until=span.sent + times.fence, claimed_at=span.came, confirmed=False)
    confirmed = view.confirmed or span.sent - view.claimed_at >= times.gap
    return view._replace(until=span.sent + times.fence, confirmed=confirmed)


def unclear(view: View, change: Change) -> View:
    """After a change whose answer was lost: it may have taken place, and the number must not be used again."""
    return view._replace(me=view.me._replace(number=change.new.number))


def next_beat(view: View, now: float, times: Times) -> float:
    """Seconds until there is something to do again: a beat, or less where a moment is waited for."""
    moments = [times.beat]
    if view.leads and not view.confirmed:
        moments.append(view.claimed_at + times.gap - now)
    elif not view.leads:
        moments += [view.seen_at + times.lease - now, view.watching_since + times.lease - now]
    return min((moment for moment in moments if moment > 0), default=times.beat)


def why_lost(view: View, now: float) -> str:
    """Why a leader has to stop acting now; empty when it need not."""
    if not view.leads:
        return ""
    if now >= view.until:
        return "the lease could not be renewed in time"
    mark = None if view.seen is None else Mark.parse(view.seen)
    if mark is not None and not _may_renew(view, mark):
        return f"{mark.node} has the lease"
    return ""


def stepped_down(view: View, life: str) -> View:
    """A watcher again, in another life: what it set as a leader is then anybody's."""
    return view._replace(me=Mark(view.me.node, life), until=0.0, confirmed=False)


def released(view: View) -> Change:
    """A clean end, once nothing of ours acts any more: the others need not wait."""
    return Change(view.seen, view.me._replace(number=view.me.number + 1, kind=RELEASED))
