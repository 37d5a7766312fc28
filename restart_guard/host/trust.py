"""Whether the way to a file is safe from other users, as OpenSSH's StrictModes and cron ask it of theirs."""

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

_MOST_LINKS = 40  # as the kernel follows (path_resolution(7))


class Weakness(NamedTuple):
    """A part of a path that somebody else may change. ``owner`` is a uid; ``is_open``: others may write it."""

    path: Path
    owner: int
    is_open: bool


def weakness(path: Path, trusted: Collection[int] = (0,)) -> Weakness | None:
    """The first part on the way to a file, links followed, that does not belong to one of these users, or that others
    may write. None if there is none, or if the way ends before.

    A sticky folder such as /tmp is safe for what a trusted user has in it. The group root is as good as root.
    """
    last: tuple[Path, os.stat_result] | None = None
    for part, status in _way(path):
        if status.st_uid not in trusted:
            return Weakness(part, status.st_uid, is_open=False)
        if last is not None and not _is_sticky(last[1]):
            return Weakness(last[0], last[1].st_uid, is_open=True)
        last = (part, status) if _is_open(status) else None
    if last is None or (_is_sticky(last[1]) and last[0] != path):
        return None
    return Weakness(last[0], last[1].st_uid, is_open=True)


def _is_open(status: os.stat_result) -> bool:
    if stat.S_ISLNK(status.st_mode) or stat.S_ISCHR(status.st_mode):
        return False
    return bool(status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != 0))


def _is_sticky(status: os.stat_result) -> bool:
    return bool(status.st_mode & stat.S_ISVTX) and stat.S_ISDIR(status.st_mode)


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every part of a path as the kernel walks it: folders, links and what they lead to, the file itself. It ends where
    nothing is, or where links lead in a circle: nothing can be opened there."""
    left = list(reversed(path.absolute().parts[1:]))
    here = "/"
    links = 0
    yield Path(here), os.stat(here)  # noqa: PTH116
    while left:
        name = left.pop()
        if name == "..":
            here = os.path.dirname(here)  # noqa: PTH120
            continue
        there = os.path.join(here, name)  # noqa: PTH118
        try:
            status = os.lstat(there)
        except OSError:
            return
        yield Path(there), status
        if not stat.S_ISLNK(status.st_mode):
            here = there
            continue
        links += 1
        if links > _MOST_LINKS:
            return
        to = os.readlink(there)  # noqa: PTH115
        if to.startswith("/"):
            here = "/"
        left += [part for part in reversed(to.split("/")) if part not in ("", ".")]
