"""Writes lines: results to stdout, diagnostics to stderr. Off a terminal each has its time, so that the output can be a
log.

A stream that cannot be written (full disk, closed pipe) must not stop the job: the failure is kept and shown by the
exit code.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

import msgspec

from restart_guard import clock
from restart_guard.config.values import DIRECTIONS, printable, printable_all

_LINE_EACH_S = 60.0
# Otherwise a key's name or a server's error text could control the operator's terminal.
_CONTROLS = {code: " " for code in [*range(32), 127, *range(128, 160), *DIRECTIONS] if code not in (9, 10)}
# JSON escapes the lower ones itself.
_IN_JSON = {code: f"\\u{code:04x}" for code in [127, *range(128, 160), *DIRECTIONS]}


class Terminal:
    """The process's two output streams. ``redact`` is set as soon as the config is known."""

    def __init__(self, *, verbosity: int = 0) -> None:
        self.verbosity = verbosity
        self.redact: Callable[[str], str] = str
        self.write_error: OSError | None = None
        self._countdowns: dict[str, str] = {}
        for stream in (sys.stdout, sys.stderr):
            # A file name may hold bytes that are not UTF-8, and cron's locale may be anything.
            getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")

    def result(self, text: str) -> None:
        """A success of the command. Not shown with -q."""
        if self.verbosity >= 0:
            self._write(sys.stdout, text, stamped=not sys.stdout.isatty())

    def failure(self, text: str) -> None:
        """A failure of the command: a result, and with -q an error."""
        if self.verbosity >= 0:
            self.result(text)
        else:
            self.error(text)

    def note(self, text: str) -> None:
        """Progress and side notes. Not shown with -q."""
        if self.verbosity >= 0:
            self.error(text)

    def detail(self, text: str) -> None:
        """Shown with -v only."""
        if self.verbosity > 0:
            self.error(text)

    def error(self, text: str) -> None:
        self._write(sys.stderr, text, stamped=not sys.stderr.isatty())

    def report(self, text: str) -> None:
        """A line of an answer that is no log: never with a time, shown with -q too."""
        self._write(sys.stdout, text, stamped=False)

    def document(self, value: object) -> None:
        """The one JSON document of --json, in UTF-8 whatever the locale. Texts are redacted before they are encoded."""
        clean = printable_all(value, lambda text: self.redact(printable(text)))
        try:
            sys.stdout.flush()
            text = msgspec.json.format(msgspec.json.encode(clean), indent=2).decode().translate(_IN_JSON)
            sys.stdout.buffer.write(text.encode() + b"\n")
            sys.stdout.flush()
        except OSError as error:
            self.write_error = error

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], *, whole: Sequence[int] = ()) -> None:
        """Rows for a person: drawn on a terminal, a line each, where the columns with the numbers ``whole`` are never
        cut; else separated by tabs and without heads."""
        if sys.stdout.isatty():
            # rich costs five times a bare start: here and below it is loaded only where a person looks at its output.
            from restart_guard import terminal_rich

            terminal_rich.table(heads, self._clean(rows), whole)
            return
        for row in rows:
            self.report("\t".join(" ".join(cell.split()) for cell in row))

    def live_table(
        self, heads: Sequence[str], look: Callable[[], Sequence[Sequence[str]]], *, whole: Sequence[int] = ()
    ) -> None:
        """A table that is drawn anew each second, until it is interrupted; only on a terminal."""
        # As for a table.
        from restart_guard import terminal_rich

        terminal_rich.live_table(heads, lambda: self._clean(look()), whole)

    def _clean(self, rows: Sequence[Sequence[str]]) -> list[list[str]]:
        return [[" ".join(self.redact(cell).translate(_CONTROLS).split()) for cell in row] for row in rows]

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int | None], None]]:
        """A bar on stderr if that is a terminal, else nothing."""
        if self.verbosity < 0 or not sys.stderr.isatty():
            yield lambda _done, _total: None
            return
        # As for a table.
        from restart_guard import terminal_rich

        with terminal_rich.progress(what) as advance:
            yield advance

    @contextmanager
    def counting(self, noun: str) -> Iterator[Callable[[str, int], None]]:
        """How many of something are done, and how many a second: a bar on stderr if that is a terminal, else a line a
        minute. The function gets the name of the job and its count so far."""
        if self.verbosity >= 0 and sys.stderr.isatty():
            # As for a table.
            from restart_guard import terminal_rich

            with terminal_rich.counting(noun) as advance:
                yield advance
            return
        begun: dict[str, float] = {}
        said_at: dict[str, float] = {}

        def advance_log(name: str, done: int) -> None:
            now = clock.monotonic()
            since = begun.setdefault(name, now)
            if now - said_at.setdefault(name, since) >= _LINE_EACH_S:
                said_at[name] = now
                self.note(f"{name}: {done} {noun}, {done / (now - since):.0f} a second")

        yield advance_log

    def countdown(self, name: str, left_s: float, count: int) -> None:
        """How long each of several things may still take: a line on stderr if that is a terminal, else nothing."""
        if self.verbosity < 0 or not sys.stderr.isatty():
            return
        noun = "process" if count == 1 else "processes"
        self._countdowns[name] = f"{name}: {count} {noun} left, {left_s:.0f} s"
        with suppress(OSError):
            sys.stderr.write("\r\x1b[K" + "  ".join(self._countdowns.values()).translate(_CONTROLS))
            sys.stderr.flush()

    def _clear_countdown(self) -> None:
        if self._countdowns:
            self._countdowns.clear()
            with suppress(OSError):
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()

    def _write(self, stream: IO[str], text: str, *, stamped: bool) -> None:
        self._clear_countdown()
        prefix = clock.local(clock.now()).isoformat(timespec="seconds") + " " if stamped else ""
        try:
            for line in self.redact(text).translate(_CONTROLS).rstrip("\n").split("\n"):
                stream.write(f"{prefix}{line}\n")
            stream.flush()
        except OSError as error:
            self.write_error = error

    def close(self) -> None:
        """Flush. What cannot be written is dropped, else the interpreter would complain once more at its end."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError as error:
                self.write_error = error
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
