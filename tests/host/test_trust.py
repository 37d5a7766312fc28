"""The way to a file: who may change where it leads."""

import os
from pathlib import Path

import pytest

from restart_guard.host.trust import weakness

pytestmark = [pytest.mark.process, pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of several users")]


def test_a_way_that_is_roots_alone_has_no_weakness(tmp_path: Path) -> None:
    """Also with a link of root's in it, and where nothing is yet; /tmp above it is sticky."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    assert weakness(tmp_path / "link/file") is None
    assert weakness(tmp_path / "folder/not/there/yet") is None


def test_the_first_part_of_somebody_else_is_told(tmp_path: Path) -> None:
    """Behind a link of root's too; what that user has in it does not matter any more."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "app.py").touch()
    os.chown(home, 65534, 65534)
    (tmp_path / "current").symlink_to("home/app.py")
    for path in (home / "app.py", tmp_path / "current", home / "../home/app.py"):
        found = weakness(path)
        assert found is not None
        assert (found.path, found.owner, found.is_open) == (home, 65534, False)
    assert weakness(home / "app.py", trusted=(0, 65534)) is None


@pytest.mark.parametrize(
    ("mode", "group", "is_weak"),
    [(0o775, 0, False), (0o775, 12345, True), (0o757, 0, True), (0o1777, 0, False), (0o755, 12345, False)],
)
def test_a_folder_that_others_may_write(tmp_path: Path, mode: int, group: int, is_weak: bool) -> None:
    """The group root is as good as root, and in a sticky folder root's files are safe."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").touch()
    os.chown(folder, 0, group)
    folder.chmod(mode)
    found = weakness(folder / "file")
    assert (found is not None and found.is_open) is is_weak


def test_a_sticky_folder_is_open_itself_and_for_what_is_not_there_yet(tmp_path: Path) -> None:
    """Somebody else may make the file first."""
    tmp_path.chmod(0o1777)
    assert weakness(tmp_path) is not None
    (tmp_path / "theirs").touch()
    os.chown(tmp_path / "theirs", 65534, 65534)
    assert weakness(tmp_path / "theirs") is not None


def test_links_in_a_circle_end_the_way(tmp_path: Path) -> None:
    """Nothing can be opened there."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert weakness(tmp_path / "a/file") is None
