"""Paths that others change while we look."""

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from restart_guard.paths import real


@pytest.mark.process
def test_a_link_that_is_replaced_all_the_time_has_a_real_path(tmp_path: Path) -> None:
    """A file, a link, nothing: never an error."""
    path, done = tmp_path / "it", threading.Event()

    def change() -> None:
        while not done.is_set():
            with suppress(OSError):
                path.symlink_to("there")
            path.unlink(missing_ok=True)
            path.touch()
            path.unlink(missing_ok=True)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        found = {real(path) for _ in range(5000)}
    finally:
        done.set()
        thread.join()
    assert found <= {str(tmp_path / "it"), str(tmp_path / "there")}
