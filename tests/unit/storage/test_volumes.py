"""Directories of volumes."""

from __future__ import annotations

import os
import pathlib

from bireme.storage.volumes import VolumeDirectories


def test_make_and_remove(tmp_path: pathlib.Path) -> None:
    volumes = VolumeDirectories(str(tmp_path / "volumes"))
    old = os.umask(0o077)
    try:
        path = pathlib.Path(volumes.make("data"))
    finally:
        os.umask(old)
    assert path == tmp_path / "volumes" / "data" / "_data"
    assert path.stat().st_mode & 0o7777 == 0o755
    (path / "file").write_text("x")
    (path / "link").symlink_to(tmp_path)
    volumes.remove("data")
    volumes.remove("data")
    assert os.listdir(tmp_path / "volumes") == []


def test_what_lies_in_the_way_without_a_record_is_not_taken_over(tmp_path: pathlib.Path) -> None:
    volumes = VolumeDirectories(str(tmp_path))
    path = pathlib.Path(volumes.make("data"))
    (path / "stale").write_text("x")
    assert os.listdir(volumes.make("data")) == []


def test_sweep(tmp_path: pathlib.Path) -> None:
    volumes = VolumeDirectories(str(tmp_path))
    for name in ("kept", "unknown"):
        volumes.make(name)
    (tmp_path / ".gone-1").mkdir()
    volumes.sweep({"kept"})
    volumes.empty()
    assert os.listdir(tmp_path) == ["kept"]
    VolumeDirectories(str(tmp_path / "absent")).sweep(set())
