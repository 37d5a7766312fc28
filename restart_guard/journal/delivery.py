"""Brings pending deliveries to their destination: rows to MySQL, messages to WeCom.

Each destination has a thread of its own and a deadline, so that one that is down or hangs delays nothing else, and a
lock, so that two processes never send the same item at once. An item is marked as delivered after it was sent: if the
process is killed in between, the next run sends it again. A row is recognised by its run_id, a message by its incident
number.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, Protocol

import msgspec

from restart_guard import clock
from restart_guard.alerts import ping, wecom
from restart_guard.backoff import delay
from restart_guard.config.options import Alert, Config
from restart_guard.config.secrets import Secret
from restart_guard.counts import counted
from restart_guard.errors import BusyError, DeliveryError, SecretError
from restart_guard.journal import mutes
from restart_guard.journal.journal import DELIVERY_CAP_S, DELIVERY_FIRST_S, Delivery, Journal
from restart_guard.lock import held
from restart_guard.mysql import task_monitor
from restart_guard.mysql.table import Row
from restart_guard.threads import all_within

RUN_BUDGET_S = 10.0
"""What a destination that is down may add to a run."""

BY_HAND_BUDGET_S = 300.0
PING = "ping"
_PAGE = 100


class Which(Enum):
    """Which deliveries to try."""

    DUE = "due"  # for the tick, each minute: respects the backoff
    PENDING = "pending"  # for a job's run: all, unless the destination asked for silence
    ASKED = "asked"  # for deliver: all pending ones
    ALL = "all"  # for deliver --all: also blocked ones


class Tally(NamedTuple):
    """The result of a delivery pass for one destination; ``said`` holds notes and errors for the operator."""

    destination: str
    delivered: int = 0
    pending: int = 0
    blocked: int = 0
    said: tuple[str, ...] = ()
    busy: bool = False


class Sender(Protocol):
    """A connection to a destination. ``send`` returns a note or None, or raises DeliveryError."""

    def send(self, payload: Any) -> str | None: ...
    def close(self) -> None: ...


class _Rows:
    def __init__(self, config: Config) -> None:
        assert config.mysql is not None  # noqa: S101 (destinations() gave its name)
        self._table = task_monitor.TaskMonitor.connect(config.mysql)

    def send(self, payload: Any) -> str | None:
        self._table.insert(Row(**payload))
        return None

    def close(self) -> None:
        self._table.close()


class _Messages:
    def __init__(self, channel: wecom.Robot | wecom.App) -> None:
        self._channel = channel

    def send(self, payload: Any) -> str | None:
        return self._channel.send(payload["text"], mention=payload["mention"])

    def close(self) -> None:
        pass


class _Channel:
    """A further way to a person, by its kind."""

    def __init__(self, alert: Alert) -> None:
        # Most configs have none; each has a driver of its own.
        from restart_guard.alerts.channels import registry

        self._send = registry.kinds()[alert.common.kind].send
        self._options = alert.options

    def send(self, payload: Any) -> str | None:
        # As above.
        from restart_guard.alerts.channels.post import Message

        fields = {name: payload[name] for name in Message._fields if name in payload}
        note: str | None = self._send(self._options, Message(**fields))
        return note

    def close(self) -> None:
        pass


class _Pings:
    def __init__(self, config: Config) -> None:
        assert config.ping is not None  # noqa: S101 (destinations() gave its name)
        self._settings = config.ping

    def send(self, payload: Any) -> str | None:
        return ping.send(self._settings, payload)

    def close(self) -> None:
        pass


def open_sender(config: Config, destination: str) -> Sender:
    """Connect to a destination. Raises DeliveryError, also if the config does not have it any more."""
    if destination == "mysql" and config.mysql is not None:
        return _Rows(config)
    if destination == "wecom" and config.wecom is not None and config.wecom.webhook is not None:
        return _Messages(wecom.Robot(config.wecom))
    if destination == "wecom_app" and config.wecom is not None and config.wecom.corp_id is not None:
        return _Messages(wecom.App(config.wecom, config.state_dir))
    if destination == PING and config.ping is not None:
        return _Pings(config)
    if destination in config.alerts:
        return _Channel(config.alerts[destination])
    raise DeliveryError(f"The config has no {destination} any more.", code="config", permanent=True)


def deliver(config: Config, which: Which, *, skip: Collection[str] = ()) -> list[Tally]:
    """Try the pending deliveries of all destinations side by side, except those to skip. Raises JournalError.

    Pings come last: they also say whether the alerts have arrived.
    """
    with Journal.open(config.state_dir) as journal:
        destinations = set(journal.open_destinations()) - set(skip)
    tallies = _deliver_to(config, destinations - {PING}, which)
    if config.ping is not None:
        with Journal.open(config.state_dir) as journal:
            destinations |= _ping_for_alerts(journal)
    return tallies + _deliver_to(config, destinations & {PING} - set(skip), which)


def _deliver_to(config: Config, destinations: Collection[str], which: Which) -> list[Tally]:
    budget = RUN_BUDGET_S if which in (Which.DUE, Which.PENDING) else BY_HAND_BUDGET_S
    return _side_by_side({name: partial(_drain, config, name, which, budget) for name in sorted(destinations)}, budget)


def _ping_for_alerts(journal: Journal) -> set[str]:
    """An alert that cannot be delivered must reach a person in another way: through the monitor."""
    waiting = journal.alerts_waiting()
    for event_id, kind, subject in waiting:
        text = f"The alert about {kind} {subject} could not be delivered."
        journal.add_delivery(event_id, PING, ping.payload(ping.job_name(kind, subject), ping.FAIL, rid="", text=text))
    return {PING} if waiting else set()


def deliver_directly(config: Config, payloads: Iterable[tuple[str, Any]]) -> list[Tally]:
    """Send once without the journal, for when it cannot be written."""
    return _side_by_side({name: partial(_send_once, config, name, payload) for name, payload in payloads}, RUN_BUDGET_S)


def _side_by_side(jobs: Mapping[str, Callable[[], Tally]], budget_s: float) -> list[Tally]:
    """Run each destination's job in a thread; one that hangs beyond the budget is left behind."""
    results = all_within(budget_s, jobs)
    late = f"did not answer within {budget_s:.0f} s."
    return [results.get(name) or Tally(name, pending=1, said=(f"{name} {late}",)) for name in jobs]


def _send_once(config: Config, destination: str, payload: Any) -> Tally:
    try:
        sender = open_sender(config, destination)
        try:
            note = sender.send(payload)
        finally:
            sender.close()
    except DeliveryError as error:
        return Tally(destination, pending=1, said=(config.redact(str(error)),))
    return Tally(destination, delivered=1, said=(note,) if note else ())


def _drain(config: Config, destination: str, which: Which, budget_s: float) -> Tally:
    """Send a destination's items, oldest first, until an error shows that the next item would fail too.

    A job's run waits for another process that is delivering: that process may not have seen the new message.
    """
    deadline = clock.monotonic() + budget_s * 0.9
    while True:
        try:
            what = f"Delivery to {destination}"
            locked = held(config.state_dir, [f"deliver-{destination}"], what=what, fallback=False)
            with locked, Journal.open(config.state_dir) as journal:
                return DeliveryPass(config, journal, destination, deadline).run(which)
        except BusyError as error:
            if which is not Which.PENDING or clock.monotonic() > deadline:
                return Tally(destination, said=(str(error),), busy=True)
        clock.sleep(0.1)


class DeliveryPass:
    """One pass over a destination's items."""

    def __init__(self, config: Config, journal: Journal, destination: str, deadline: float) -> None:
        self._config = config
        self._journal = journal
        self._destination = destination
        self._deadline = deadline
        self._sender: Sender | None = None
        self._delivered = 0
        self._said: list[str] = []
        self._mutes = mutes.current(journal)

    def run(self, which: Which) -> Tally:
        try:
            if self._is_time(which):
                self._send_all(which)
        finally:
            if self._sender is not None:
                self._sender.close()
        states = self._journal.open_states(self._destination)
        said = tuple(dict.fromkeys(self._said))
        return Tally(self._destination, self._delivered, states.get("pending", 0), states.get("blocked", 0), said)

    def _is_time(self, which: Which) -> bool:
        """Backoff and silence apply to the destination, not to the item."""
        if which not in (Which.DUE, Which.PENDING):
            return True
        return self._journal.is_due(self._destination, clock.now(), silence_only=which is Which.PENDING)

    def _send_all(self, which: Which) -> None:
        """Try the items, oldest first: a person must not hear of a recovery before the alert.

        A blocked item is tried again if the config changed, and first of all if there is a new item: the cause may have
        been fixed elsewhere.
        """
        unlike = None
        if which is not Which.ALL and not self._journal.open_states(self._destination).get("pending"):
            unlike = config_mark(self._config, self._destination, self._journal)
        last = 0
        while items := self._journal.undelivered(self._destination, after=last, limit=_PAGE, unlike=unlike):
            for item in items:
                if clock.monotonic() > self._deadline or not self._send(item):
                    return
            last = items[-1].id

    def _send(self, item: Delivery) -> bool:
        """Try an item. False if the next one would fail too."""
        is_message = isinstance(item.payload, dict) and "mention" in item.payload
        if is_message and self._is_muted(item):
            return True
        primary = item.payload.get("fallback_for") if is_message else None
        if primary is not None and not self._is_needed(item, primary):
            return True
        try:
            if self._sender is None:
                self._sender = open_sender(self._config, self._destination)
            note = self._sender.send(item.payload)
        except DeliveryError as error:
            self._keep(item, error)
            return not error.whole_destination
        self._journal.delivered(item.id, clock.now())
        self._delivered += 1
        self._journal.remember(f"{self._destination}.note", self._config.redact(note or ""))
        if note:
            self._said.append(self._config.redact(note))
        return True

    def _is_muted(self, item: Delivery) -> bool:
        """Whether a message is not to be sent now, or not any more: of what was held back only what is still so is
        told when the mute is over."""
        kind, subject = self._journal.subject_of(item.id)
        if mutes.of(self._mutes, kind, subject):
            if item.error != mutes.HELD:
                self._journal.hold(item.id, mutes.HELD)
            return True
        if item.error != mutes.HELD or self._is_still_news(item):
            return False
        self._journal.delivered(item.id, clock.now(), note=mutes.NOT_SENT)
        return True

    def _is_still_news(self, item: Delivery) -> bool:
        """Whether what was held back is how it is now, and other than the receivers know."""
        if not self._journal.is_newest(item.id):
            return False
        told = self._journal.last_told(item.id, mutes.NOT_SENT)
        return bool(item.payload["mention"] or (told is not None and told.get("mention")))

    def _is_needed(self, item: Delivery, primary: str) -> bool:
        """Whether a fallback is to be sent now: its time has come, and the message has not arrived in the other way."""
        if self._journal.has_arrived(item.id, primary):
            self._journal.delivered(item.id, clock.now(), note=f"not needed, {primary} has it")
            return False
        return clock.stamp(clock.now()) >= str(item.payload.get("not_before", ""))

    def _keep(self, item: Delivery, error: DeliveryError) -> None:
        """Record a failed try. An error that only a person can fix also blocks the items behind it: if they stayed
        pending, each tick would try the same wrong password again."""
        text = self._config.redact(str(error))
        self._said.append(text)
        if error.permanent:
            mark = config_mark(self._config, self._destination, self._journal)
            self._journal.block(item, text, error.code, mark, all_behind=error.whole_destination)
            return
        wait = max(delay(item.tries + 1, first_s=DELIVERY_FIRST_S, cap_s=DELIVERY_CAP_S), error.not_before_s)
        now = clock.now()
        silence = now + timedelta(seconds=error.not_before_s) if error.not_before_s else None
        self._journal.failed(item.id, text, error.code, now + timedelta(seconds=wait), silence)


def config_mark(config: Config, destination: str, journal: Journal) -> str:
    """A mark of a destination's config, secrets included, to notice a change.

    Salted, slow and only 24 bits long: it shows a change but reveals no password if the journal gets into wrong hands.
    """
    section: msgspec.Struct | None = {"mysql": config.mysql, PING: config.ping}.get(destination, config.wecom)
    if destination in config.alerts:
        section = config.alerts[destination].options
    text = "\0".join(_plain(section)) if section is not None else ""
    return hashlib.scrypt(text.encode(), salt=journal.salt().encode(), n=2**13, r=8, p=1, dklen=3).hex()


def _plain(section: msgspec.Struct) -> Iterable[str]:
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if isinstance(value, Secret):
            try:
                value = value.reveal()
            except SecretError as error:
                value = str(error)
        yield f"{name}={value}"


def _deliveries(count: int) -> str:
    return f"{counted(count, 'delivery', 'deliveries')} {'is' if count == 1 else 'are'}"


def lines(tallies: Iterable[Tally]) -> list[str]:
    """The lines for the operator after a delivery: notes, errors and the number of items that are left."""
    said: list[str] = []
    for tally in tallies:
        said += tally.said
        if tally.pending:
            said.append(f"{tally.destination}: {_deliveries(tally.pending)} pending; every run tries again.")
        if tally.blocked:
            said.append(
                f"{tally.destination}: {_deliveries(tally.blocked)} blocked. "
                "Fix the error, then run restart-guard deliver --all."
            )
    return said
