"""Directories of instances: renamed rather than made, and never with anything of the one before."""

from __future__ import annotations

import os
import pathlib

import pytest

from bireme.engine.directories import Directories


def test_an_emptied_directory_is_the_next_ones(tmp_path: pathlib.Path) -> None:
    directories = Directories(str(tmp_path))
    first = os.stat(directories.make("a"))
    for name in ("a-json.log", "hosts"):
        (tmp_path / "a" / name).write_text("secret")
    directories.remove("a")
    assert directories.names() == []
    assert os.stat(directories.make("b")).st_ino == first.st_ino
    assert os.listdir(tmp_path / "b") == []
    assert os.listdir(tmp_path) == directories.names() == ["b"]


@pytest.mark.parametrize("entry", ["disk", "deep/file"])
def test_what_is_not_known_is_walked_and_not_used_again(tmp_path: pathlib.Path, entry: str) -> None:
    directories = Directories(str(tmp_path))
    file = pathlib.Path(directories.make("a"), entry)
    file.parent.mkdir(exist_ok=True)
    file.write_text("x")
    directories.remove("a")
    assert os.listdir(tmp_path) == []


def test_not_more_than_some_are_kept_and_removing_twice_is_no_error(tmp_path: pathlib.Path) -> None:
    directories = Directories(str(tmp_path))
    names = [f"n{number}" for number in range(40)]
    for name in names:
        directories.make(name)
    for name in names * 2:
        directories.remove(name)
    assert len(os.listdir(tmp_path)) == 16
    assert directories.names() == []


def test_spares_of_a_killed_engine_are_found(tmp_path: pathlib.Path) -> None:
    killed = Directories(str(tmp_path))
    killed.make("a")
    killed.remove("a")
    directories = Directories(str(tmp_path))
    (left,) = directories.names()
    directories.remove(left)
    assert directories.names() == []


def test_a_spare_that_somebody_removed_is_no_error(tmp_path: pathlib.Path) -> None:
    directories = Directories(str(tmp_path))
    directories.make("a")
    directories.remove("a")
    for entry in tmp_path.iterdir():
        entry.rmdir()
    assert os.listdir(directories.make("b")) == []


def test_files_in_memory_go_with_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "memory").mkdir()
    directories = Directories(str(tmp_path / "disk"))
    directories.etc.use(str(tmp_path / "memory"))
    directories.etc.write("a", directories.make("a"), {"hosts": "x"})
    directories.etc.write("orphan", "", {"hosts": "x"})
    assert sorted(directories.names()) == ["a", "orphan"]
    directories.remove("a")
    directories.remove("orphan")
    assert directories.names() == os.listdir(tmp_path / "memory") == []
