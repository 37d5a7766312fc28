"""The children of this process: those that it started, and orphans of those, which become its children.

A process that launches targets is a child subreaper (PR_SET_CHILD_SUBREAPER, prctl(2)), so that it learns how their
daemons end, and sees at once whether anything is left of a launch. It reaps them too, as init would do.
"""

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from restart_guard.host import process_table

if TYPE_CHECKING:
    from subprocess import Popen

_LOCK_S = 1.0

# Weakly: whoever started a child holds it for as long as it matters, and a watch starts many.
_started: "WeakValueDictionary[int, Popen[bytes]]" = WeakValueDictionary()
_starting: list[None] = []  # one for each start under way; appending and popping are atomic, also between threads
_starts = 0
_one_start = Lock()


def start(make: Callable[[], "Popen[bytes]"], ticket: str = "") -> "Popen[bytes]":
    """Start a child, and know it from an orphan. Its ticket, hexadecimal, is given to it and to all its descendants.
    Raises what ``make`` raises."""
    global _starts  # noqa: PLW0603 (there is one table of children in a process)
    # A program on a file system that hangs must not hold up the others: they do without the number.
    is_alone = _one_start.acquire(timeout=_LOCK_S)
    _starting.append(None)
    _starts += 1
    try:
        if ticket and is_alone:
            with process_table.give_number(int(ticket, 16)):
                child = make()
        else:
            child = make()
        _started[child.pid] = child
        return child
    finally:
        _starting.pop()
        if is_alone:
            _one_start.release()


def orphans() -> list[int] | None:
    """The pids of children that this process did not start, zombies among them; None if that cannot be told, because
    another thread is just starting one."""
    if not process_table.has_children():
        return []
    before = _starts
    found = _all()
    if _starting or before != _starts:
        return None
    return [pid for pid in found if not _is_own(pid)]


def reap(keep: Collection[int] = ()) -> bool:
    """Collect the orphans that have ended, except these pids, whose exit status somebody else collects. Whether there
    were orphans."""
    found = orphans() or ()
    for pid in found:
        if pid not in keep:
            collect(pid)
    return bool(found)


def collect(pid: int) -> int | None:
    """The exit status of a child that has ended, or the negative number of a signal; None if it runs, or is no child of
    ours."""
    with suppress(ChildProcessError):
        collected, status = os.waitpid(pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if collected else None
    return None


def _is_own(pid: int) -> bool:
    child = _started.get(pid)
    if child is not None and child.returncode is not None:
        _started.pop(pid, None)  # collected, so the pid may be another process now
        return False
    return child is not None


def _all() -> list[int]:
    """The children of the main thread, to which orphans come, by the kernel's own list (proc(5)); a scan where it keeps
    none."""
    own = os.getpid()
    try:
        fd = os.open(f"/proc/{own}/task/{own}/children", os.O_RDONLY)
    except OSError:
        return [process.pid for process in process_table.everybody() if process.parent == own]
    try:
        content = b""
        while part := os.read(fd, 65536):
            content += part
    finally:
        os.close(fd)
    return [int(word) for word in content.split()]
