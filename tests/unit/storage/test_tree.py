from __future__ import annotations

import os
import stat
from pathlib import Path

from bireme.storage.tree import copy_tree, empty_directory, measure, open_directory, remove_entry


def test_copies_keep_what_matters(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "d").mkdir(parents=True)
    target.mkdir()
    (source / "d" / "f").write_bytes(b"data")
    os.chmod(source / "d" / "f", 0o4750)
    os.link(source / "d" / "f", source / "hard")
    os.symlink("/nowhere", source / "link")
    os.mkfifo(source / "fifo", 0o622)
    with open(source / "hole", "wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
        file.truncate(3 << 20)
    os.utime(source / "d", ns=(1, 2_000_000_003))
    os.chmod(source, 0o1700)
    copy_tree(str(source), str(target))
    assert (target / "d" / "f").read_bytes() == b"data"
    assert stat.S_IMODE((target / "d" / "f").stat().st_mode) == 0o4750
    assert (target / "hard").stat().st_ino == (target / "d" / "f").stat().st_ino
    assert os.readlink(target / "link") == "/nowhere"
    assert stat.S_ISFIFO((target / "fifo").stat().st_mode)
    assert (target / "hole").read_bytes() == (source / "hole").read_bytes()
    assert (target / "hole").stat().st_blocks * 512 < 1 << 20
    assert (target / "d").stat().st_mtime_ns == 2_000_000_003
    assert stat.S_IMODE(target.stat().st_mode) == 0o1700


def test_removal_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "f").write_text("")
    (tmp_path / "kept").write_text("")
    fd = open_directory(str(tmp_path))
    remove_entry(fd, "a", fd)
    remove_entry(fd, "absent", fd)
    assert os.listdir(tmp_path) == ["kept"]
    assert empty_directory(fd) == []
    os.close(fd)
    assert os.listdir(tmp_path) == []


def test_measuring_a_deep_tree(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(60):
        deep = deep / "d"
        deep.mkdir()
    assert measure(str(tmp_path)).inodes == 61
