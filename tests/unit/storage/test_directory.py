from __future__ import annotations

import os
from pathlib import Path

import pytest

from bireme.errors import Conflict, NotFound
from bireme.storage.directory import SnapshotDirectory


def test_the_next_process_sees_the_same(tmp_path: Path) -> None:
    first = SnapshotDirectory(str(tmp_path))
    first.make("a", None, work=True)
    first.commit("a", "base")
    first.make("b", "base", work=True)
    second = SnapshotDirectory(str(tmp_path))
    assert sorted(second.list()) == sorted(first.list())
    assert second.parent(second.active("b")) == "base"


@pytest.mark.parametrize("left", [[], ["parent"], ["parent", "work"], ["parent", "work", "new"]])
def test_an_interrupted_prepare_counts_as_absent(tmp_path: Path, left: list[str]) -> None:
    directory = SnapshotDirectory(str(tmp_path))
    dead = tmp_path / "active" / "a"
    dead.mkdir()
    for name in left:
        if name == "parent":
            os.symlink("base", dead / name)
        else:
            (dead / name).mkdir()
    with pytest.raises(NotFound):
        directory.active("a")
    directory.make("a", None, work=True)
    assert directory.parent(directory.active("a")) == ""
    assert os.listdir(tmp_path / "removed") == []
    with pytest.raises(Conflict):
        directory.make("a", None, work=True)


def test_an_interrupted_prepare_can_be_removed(tmp_path: Path) -> None:
    directory = SnapshotDirectory(str(tmp_path))
    (tmp_path / "active" / "a").mkdir()
    directory.remove("a")
    assert list(directory.list()) == []


def test_an_interrupted_removal_is_finished_by_sweep(tmp_path: Path) -> None:
    directory = SnapshotDirectory(str(tmp_path))
    (tmp_path / "removed" / "00ff" / "fs" / "deep").mkdir(parents=True)
    assert directory.sweep() == 0
    assert os.listdir(tmp_path / "removed") == []


def test_a_failed_fill_leaves_nothing(tmp_path: Path) -> None:
    directory = SnapshotDirectory(str(tmp_path))
    directory.make("a", None, work=False)
    directory.commit("a", "base")

    def fail(source: str, target: str) -> None:
        Path(target, "half").write_text("")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        directory.make("b", "base", work=False, fill=fail)
    assert [info.name for info in directory.list()] == ["base"]
    directory.make("b", "base", work=False)


def test_a_missing_layer_below_is_told(tmp_path: Path) -> None:
    directory = SnapshotDirectory(str(tmp_path))
    broken = tmp_path / "committed" / "top"
    (broken / "fs").mkdir(parents=True)
    os.symlink("gone", broken / "parent")
    with pytest.raises(NotFound, match="gone"):
        directory.make("a", "top", work=True)
    assert [info.name for info in directory.list()] == ["top"]
