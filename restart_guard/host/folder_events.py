"""Reports files that appear, disappear or are replaced in folders, from the kernel (inotify(7)), without polling."""

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any


class FolderEvents:
    """The watched folders. ``fd`` is None if the kernel reports nothing: then the caller has to look."""

    def __init__(self) -> None:
        self._folders: dict[int, Path] = {}
        self._known: set[Path] = set()
        self._inotify: Any = None
        self._mask = 0
        # inotify-simple is installed on Linux only; a host may have used up its instances (max_user_instances).
        with suppress(ImportError, OSError):
            import inotify_simple

            flags = inotify_simple.flags
            self._mask = flags.CREATE | flags.DELETE | flags.MOVED_TO | flags.MOVED_FROM | flags.ONLYDIR
            self._mask |= flags.MOVE_SELF | flags.DELETE_SELF
            self._inotify = inotify_simple.INotify(nonblocking=True)

    @property
    def fd(self) -> int | None:
        return None if self._inotify is None else self._inotify.fileno()

    def listen(self, folders: Iterable[Path]) -> str:
        """Watch these folders too. A sentence about those that cannot be watched, which are tried again the next time;
        empty if all are."""
        wanted = set(folders)
        if self._inotify is None:
            return "The kernel does not report changes in folders." if wanted else ""
        trouble = ""
        for folder in wanted - self._known:
            try:
                self._folders[self._inotify.add_watch(os.fspath(folder), self._mask)] = folder
                self._known.add(folder)
            except FileNotFoundError:
                pass  # it may be made again
            except OSError as error:
                trouble = f"The kernel does not report changes in {folder}: {_why(error)}."
        return trouble

    def changed(self) -> set[Path]:
        """The files that appeared, disappeared or were replaced since the last call."""
        paths = set()
        for event in self._inotify.read(timeout=0) if self._inotify is not None else ():
            folder = self._folders.get(event.wd)
            if folder is not None and event.name:
                paths.add(folder / event.name)
            elif folder is not None:  # the folder itself is gone; another may take its place
                self._known.discard(folder)
                paths.add(folder)
        return paths

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()


def _why(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "this user has no inotify watches left (fs.inotify.max_user_watches)"
    return error.strerror or str(error)
