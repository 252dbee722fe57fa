"""What an instance has written, counted in a hostile tree."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest

from bireme.errors import Deadline
from bireme.storage.sizing import occupied_bytes, written_bytes
from bireme.storage.tree import empty_directory, open_directory


@pytest.fixture
def deep(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory for trees deeper than others can remove."""
    yield tmp_path
    directory = open_directory(str(tmp_path))
    try:
        assert not empty_directory(directory)
    finally:
        os.close(directory)


def test_files_count_what_they_say_and_directories_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x" * 1000)
    (tmp_path / "empty").touch()
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 20)
    assert written_bytes(str(tmp_path)) == 1000 + (1 << 20)


def test_a_file_with_several_links_counts_once(tmp_path: pathlib.Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "one").write_bytes(b"x" * 300)
    os.link(tmp_path / "one", tmp_path / "dir" / "two")
    os.link(tmp_path / "one", tmp_path / "three")
    assert written_bytes(str(tmp_path)) == 300


def test_links_are_counted_and_not_followed(tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big").write_bytes(b"x" * 5000)
    upper = tmp_path / "upper"
    upper.mkdir()
    os.symlink("../outside", upper / "out")
    os.symlink("/", upper / "root")
    assert written_bytes(str(upper)) == len("../outside") + len("/")
    with pytest.raises(OSError, match="Not a directory"):
        written_bytes(str(upper / "out"))


def test_depth_costs_no_descriptors(deep: pathlib.Path) -> None:
    at = os.open(deep, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = inner
    file = os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=at)
    os.write(file, b"deep")
    os.close(file)
    os.close(at)
    assert written_bytes(str(deep)) == 4


def test_what_lies_deeper_than_a_path_is_left_out(deep: pathlib.Path) -> None:
    (deep / "file").write_bytes(b"abc")
    at = os.open(deep, os.O_RDONLY)
    name = "n" * 250
    for _ in range(30):
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    assert written_bytes(str(deep)) == 3


def test_names_of_any_bytes(tmp_path: pathlib.Path) -> None:
    inner = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(inner)
    with open(inner + b"/\x80", "wb") as file:
        file.write(b"12")
    assert written_bytes(str(tmp_path)) == 2


def test_time_is_bounded(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Deadline, match="too large to be measured"):
        written_bytes(str(tmp_path), -1.0)


def test_occupied(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.write(b"x" * 4096)
        file.truncate(1 << 30)
    assert 4096 <= occupied_bytes(str(disk)) < 1 << 20
    assert occupied_bytes(str(tmp_path / "none")) == 0
