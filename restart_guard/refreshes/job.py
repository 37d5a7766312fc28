"""Rebuilds Redis data from MySQL: compare a query's rows with Redis, report the differences, swap the new data in."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from restart_guard import clock
from restart_guard.config.load import picked
from restart_guard.config.options import Check, Config, Refresh
from restart_guard.errors import DeliveryError, GuardError, JournalError, RefreshError, StoreError, UsageError
from restart_guard.ids import new_run_id
from restart_guard.journal.due import has_missed, note_began, scheduled
from restart_guard.journal.journal import Journal
from restart_guard.journal.record import JournalEntry, Recorded, Say, finish, start_ping
from restart_guard.lock import held
from restart_guard.mysql import rows as mysql_rows
from restart_guard.mysql.rows import Rows
from restart_guard.redis_server import client as redis_client
from restart_guard.redis_server import persistence
from restart_guard.redis_server.client import connected
from restart_guard.refreshes import mapping, messages, per_key
from restart_guard.refreshes.collection import CollectionSwap
from restart_guard.refreshes.keys import KeyedRefresh, scratch_of
from restart_guard.refreshes.mapping import Drift, Example
from restart_guard.refreshes.messages import Refreshed
from restart_guard.refreshes.scratch import owned

KIND = "refresh"
_FEW = 2

Progress = Callable[[str, int], None]
"""Told the refresh and how many rows are done."""


class RefreshOptions(NamedTuple):
    """Options of a refresh: overrule ``max_change``, have Redis save itself afterwards."""

    force: bool = False
    save: bool = False


class Result(NamedTuple):
    """An outcome, and where it was recorded."""

    done: Refreshed
    recorded: Recorded

    def shown(self) -> dict[str, Any]:
        """The object of ``refresh --json``."""
        done = self.done
        return {
            "refresh": done.name,
            "run_id": done.run_id or None,
            "status": "success" if done.error is None else "failure",
            "dry_run": done.dry_run,
            "refused": refused_because(done),
            **particulars(done),
            "detail": messages.summary(done, "en"),
            "delivered": self.recorded.delivered,
        }


def particulars(done: Refreshed) -> dict[str, Any]:
    """The fields that the journal and --json have beside the summary."""
    drift = done.drift._asdict()
    return {
        "rows": done.rows,
        **drift,
        "examples": [example._asdict() for example in done.drift.examples],
        "error": getattr(done.error, "code", None),
        "duration_ms": round(done.duration_s * 1000),
        "server": done.server,
    }


def verdict(done: Refreshed) -> str:
    """The result for an operator, in one line."""
    word = "FAILED" if done.error is not None else "compared" if done.dry_run else "refreshed"
    refused = f"; would be refused: {refused_because(done)}" if done.refusal is not None else ""
    return f"{word}: {messages.summary(done, 'en')}{refused}"


def refused_because(done: Refreshed) -> str | None:
    """Why a real run would be refused, after a dry run."""
    return None if done.refusal is None else messages.reason(done.refusal, done.server, "en")


def examples(done: Refreshed) -> Sequence[Example]:
    """The differences worth showing: none for a refresh that failed for another reason than its drift."""
    has_examples = done.error is None or getattr(done.error, "code", "") == "drift"
    return done.drift.examples if has_examples else ()


def chosen(config: Config, names: Sequence[str]) -> list[str]:
    """The named refreshes, or all. Raises UsageError for an unknown name, and if the config has no refresh."""
    chosen_names = picked(config.refreshes, names, what="refresh", path=config.path)
    if not config.refreshes:
        raise UsageError(f"{config.path} has no [refreshes.NAME]: there is nothing to refresh.")
    return chosen_names


def related(config: Config, check: Check) -> list[str]:
    """The refreshes of a check's data: the one that recovers it, and those of a key that it reads."""
    healer = check.recover.removeprefix("refresh:")
    return [
        name
        for name, refresh in config.refreshes.items()
        if name == healer or mapping.may_meet(refresh.key, [*check.keys, *check.patterns])
    ]


def run(
    config: Config,
    names: Sequence[str],
    *,
    wish: RefreshOptions,
    progress: Progress,
    say: Say,
    only_due: bool = False,
) -> Iterator[Result]:
    """Rebuild each and record the outcome; with ``only_due`` only those that missed their last scheduled time.

    Raises BusyError if another process is working on one of them, or on a check of the same data.
    """
    down: set[str] = set()
    with held(config.state_dir, [f"refresh-{name}" for name in names], what="A refresh or check of this data"):
        for name in due(config, names) if only_due else names:
            yield rebuild(config, name, wish, progress=progress, say=say, down=down)


def due(config: Config, names: Sequence[str]) -> list[str]:
    """Those that have a schedule and missed its last time. Raises ConfigError, JournalError."""
    with Journal.open(config.state_dir) as journal:
        missed = {job.subject for job in scheduled(config) if job.kind == KIND and has_missed(journal, job)}
    return [name for name in names if name in missed]


def rebuild(
    config: Config,
    name: str,
    wish: RefreshOptions,
    *,
    progress: Progress,
    say: Say,
    down: set[str],
) -> Result:
    """Run one refresh, whose lock is held."""
    run_id = new_run_id()
    with suppress(JournalError), Journal.open(config.state_dir) as journal:
        note_began(journal, KIND, name)
    start = start_ping(config, KIND, name, run_id)
    done = _attempt(config, name, force=wish.force, progress=progress)._replace(run_id=run_id)
    if wish.save and done.error is None:
        done = done._replace(error=_saved(config, config.refreshes[name]))
    if start is not None:
        start.wait()
    entry = JournalEntry(KIND, name, done, messages, particulars(done), "refresh.log")
    return Result(done, finish(config, entry, down, say))


def _saved(config: Config, refresh: Refresh) -> StoreError | None:
    try:
        persistence.save(config.redis, refresh.timeout)
    except StoreError as error:
        return error
    return None


def look(config: Config, names: Sequence[str], *, force: bool, progress: Progress) -> Iterator[Result]:
    """Only compare; nothing is written, neither in Redis nor in the journal."""
    for name in names:
        yield Result(_attempt(config, name, force=force, progress=progress, dry_run=True), Recorded({}))


def _attempt(config: Config, name: str, *, force: bool, progress: Progress, dry_run: bool = False) -> Refreshed:
    begun, began_at = clock.monotonic(), clock.now()
    run = RefreshRun(config, name, force=force, dry_run=dry_run, progress=lambda rows: progress(name, rows))
    error: GuardError | None = None
    try:
        run.refresh()
    except (RefreshError, StoreError, DeliveryError) as trouble:
        error = trouble
    return Refreshed(
        run_id="",
        name=name,
        started_at=began_at,
        duration_s=clock.monotonic() - begun,
        rows=run.rows,
        drift=run.drift,
        error=error,
        server=redis_client.name(config.redis),
        host=os.uname().nodename,
        dry_run=dry_run,
        refusal=run.refusal,
        is_room_known=run.is_room_known,
    )


class RefreshRun:
    """One refresh while it runs: ``rows`` and ``drift`` show how far it has come."""

    def __init__(
        self, config: Config, name: str, *, force: bool, dry_run: bool, progress: Callable[[int], None]
    ) -> None:
        self._config = config
        self._name = name
        self._refresh = config.refreshes[name]
        self._force = force
        self._dry_run = dry_run
        self._tell = progress
        self.rows = 0
        self.drift = Drift()
        self.refusal: RefreshError | None = None
        self.is_room_known = True

    def refresh(self) -> None:
        """Raises RefreshError, StoreError, DeliveryError; then the old data is complete."""
        config, refresh = self._config, self._refresh
        assert config.mysql is not None  # noqa: S101 (a config error)
        with mysql_rows.reading(config.mysql, self._name, refresh.timeout) as ask:
            rows = ask(refresh.query)
            single = mapping.template_fields(refresh.key) or refresh.type in ("string", "json")
            work = self._keys if single else self._collection
            seconds = refresh.timeout + config.redis.timeout
            if self._dry_run:
                with connected(config.redis, whole_s=seconds) as client:
                    work(client, None, ask, rows)
            else:
                with owned(config.redis, scratch_of(self._name, refresh), seconds) as (client, token):
                    work(client, token, ask, rows)

    def _collection(self, client: Any, token: bytes | None, _ask: Callable[[str], Rows], rows: Rows) -> None:
        build = CollectionSwap(client, self._refresh, token)
        self.is_room_known = build.room is None or build.room.is_known
        build.add_all(self._counted(rows), [column.name for column in rows.columns], self._tell)
        self.drift = build.drift
        if build.other_type and not self._force:
            wanted = self._refresh.type
            foreign = RefreshError("other_type", key=self._refresh.key, found=build.other_type, wanted=wanted)
            if token is not None:
                raise foreign
            self.refusal = foreign
        # In a list one more row moves all that follow: there only the length counts.
        share = self.drift.length_share if self._refresh.type == "list" else self.drift.share
        if token is None:
            self._foresee(share)
        elif self._decide(share):
            build.swap()
        else:
            build.clear()

    def _keys(self, client: Any, token: bytes | None, ask: Callable[[str], Rows], rows: Rows) -> None:
        keys = KeyedRefresh(client, self._name, self._refresh, token, force=self._force)
        self.is_room_known = keys.room is None or keys.room.is_known
        how = per_key.per_key(self._refresh.type, self._refresh.key, rows.columns)
        self.drift = keys.compare(how.grouped(self._counted(rows)), self._tell)
        # A single value has no share that differs; among very few keys only removed ones count.
        many = self.drift.removed or self.drift.added + self.drift.changed + self.drift.unchanged > _FEW
        share = self.drift.share if many and not how.is_fixed else 0.0
        if how.is_fixed and self._refresh.type == "json":
            share = self._length_share(client)
        self.refusal = keys.refusal
        if token is None:
            self._foresee(share)
        elif self._decide(share):
            # The same snapshot, read again: nothing was written before all rows had been seen.
            keys.write(how.grouped(ask(self._refresh.query).batches(self._refresh.batch)), self._tell)
        else:
            keys.clear()

    def _counted(self, rows: Rows) -> Iterator[list[bytes | None]]:
        for batch in rows.batches(self._refresh.batch):
            self.rows += len(batch) // len(rows.columns)
            yield batch

    def _length_share(self, client: Any) -> float:
        """How much the number of a JSON list's elements differs from the existing list."""
        try:
            before = len(
                msgspec.json.decode(client.get(mapping.fixed_key(self._refresh.key)) or b"[]", type=list[msgspec.Raw])
            )
        except msgspec.MsgspecError:
            return 0.0  # not a list: nothing to compare
        return abs(self.rows - before) / max(before, self.rows) if before and self.rows else 0.0

    def _foresee(self, share: float) -> None:
        """Note the refusal that a real run would give."""
        try:
            self._decide(share)
        except RefreshError as error:
            self.refusal = self.refusal or error

    def _decide(self, share: float) -> bool:
        """Whether to put the new data in place; False: there is none and the old data must go. Raises RefreshError."""
        refresh, drift = self._refresh, self.drift
        if self.rows == 0:
            if refresh.on_empty == "fail":
                raise RefreshError("empty")
            return False
        if share > refresh.max_change and not self._force:
            raise RefreshError("drift", share=f"{share:.0%}", most=f"{refresh.max_change:.0%}", **drift._asdict())
        return True
