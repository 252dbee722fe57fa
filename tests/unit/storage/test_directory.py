from __future__ import annotations

import os
from pathlib import Path

import pytest

from bireme.errors import Conflict, NotFound
from bireme.storage.directory import SnapshotDirectory


def open_at(path: Path, spares: int = 0) -> SnapshotDirectory:
    return SnapshotDirectory(str(path), work=True, spares=spares)


def test_the_next_process_sees_the_same(tmp_path: Path) -> None:
    first = open_at(tmp_path)
    first.make("a", None)
    first.commit("a", "sha256:base")
    first.make("b", "sha256:base")
    second = open_at(tmp_path)
    assert sorted(second.list()) == sorted(first.list())
    assert second.parent("b") == "sha256:base"
    assert second.active("b") == first.active("b")
    with pytest.raises(Conflict):
        second.make("b", None)


def test_spares_are_made_in_idle_time_and_used_first(tmp_path: Path) -> None:
    directory = open_at(tmp_path, spares=2)
    assert os.listdir(tmp_path / "new") == []
    directory.sweep()
    spares = set(os.listdir(tmp_path / "new"))
    assert len(spares) == 2
    inodes = {os.stat(tmp_path / "new" / name).st_ino for name in spares}
    for key in ("a", "b", "c"):
        path = directory.make(key, None)
        assert sorted(os.listdir(path)) == ["fs", "work"]
        assert (os.stat(path).st_ino in inodes) == (key != "c")
    directory.remove("a")
    assert len(os.listdir(tmp_path / "new")) == 1
    assert directory.sweep() == 0
    assert len(os.listdir(tmp_path / "new")) == 2


def test_a_removed_one_is_used_again_with_a_root_of_its_own(tmp_path: Path) -> None:
    directory = open_at(tmp_path, spares=1)
    path = directory.make("a", None)
    os.mkdir(f"{path}/work/work")
    inode = os.stat(path).st_ino
    old = os.open(f"{path}/fs", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chmod(f"{path}/fs", 0o777)
        directory.remove("a")
        again = directory.make("b", None)
        assert os.stat(again).st_ino == inode
        assert os.stat(f"{again}/fs").st_ino != os.fstat(old).st_ino
        assert os.stat(f"{again}/fs").st_mode & 0o7777 == 0o755
        assert os.listdir(f"{again}/work") == []
        with pytest.raises(FileNotFoundError):
            os.mkdir("late", dir_fd=old)
    finally:
        os.close(old)


@pytest.mark.parametrize("left", ["fs/file", "work/more", "work/work/temporary", "parent"])
def test_one_with_more_in_it_is_not_used_again(tmp_path: Path, left: str) -> None:
    directory = open_at(tmp_path, spares=1)
    path = directory.make("a", None)
    inode = os.stat(path).st_ino
    os.makedirs(f"{path}/work/work")
    (Path(path) / left).touch()
    holder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)  # keeps the number from being given out again
    directory.remove("a")
    assert os.listdir(tmp_path / "removed") == []
    assert os.stat(directory.make("b", None)).st_ino != inode
    os.close(holder)


def test_what_the_dead_were_making_is_swept(tmp_path: Path) -> None:
    open_at(tmp_path, spares=3).sweep()
    directory = open_at(tmp_path)
    directory.make("a", None)
    assert directory.sweep() == 0
    assert os.listdir(tmp_path / "new") == os.listdir(tmp_path / "removed") == []
    assert [info.name for info in directory.list()] == ["a"]


def test_an_interrupted_removal_is_finished_by_sweep(tmp_path: Path) -> None:
    directory = open_at(tmp_path)
    (tmp_path / "removed" / "00ff" / "fs" / "deep").mkdir(parents=True)
    assert directory.sweep() == 0
    assert os.listdir(tmp_path / "removed") == []


def test_an_interrupted_commit_can_be_made_again(tmp_path: Path) -> None:
    directory = open_at(tmp_path)
    directory.make("a", None)
    directory.commit("a", "base")
    os.symlink("base", directory.make("b", "base") + "/parent")
    directory.commit("b", "top")
    assert len(directory.layer("top").paths) == 2


def test_a_failed_fill_leaves_nothing(tmp_path: Path) -> None:
    directory = open_at(tmp_path)
    directory.make("a", None)
    directory.commit("a", "base")

    def fail(source: str, target: str) -> None:
        Path(target, "half").write_text("")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        directory.make("b", "base", fail)
    assert [info.name for info in directory.list()] == ["base"]
    assert os.listdir(tmp_path / "new") == os.listdir(tmp_path / "removed") == []
    directory.make("b", "base")


def test_a_missing_layer_below_is_told(tmp_path: Path) -> None:
    directory = open_at(tmp_path)
    broken = tmp_path / "committed" / "top"
    (broken / "fs").mkdir(parents=True)
    os.symlink("gone", broken / "parent")
    with pytest.raises(NotFound, match="gone"):
        directory.make("a", "top")
    assert [info.name for info in directory.list()] == ["top"]
