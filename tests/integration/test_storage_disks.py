"""A machine's writable disk on a real kernel: its size, what it costs, what survives a cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bireme.errors import Conflict, Invalid, Unavailable
from bireme.linux import mount
from bireme.storage import disks, tool
from bireme.storage.disks import WritableDisks, check_size
from tests.support.pace import eventually

MIB = 1 << 20

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(not tool.find_tool("mkfs.ext4"), reason="mkfs.ext4 is not installed"),
]


@pytest.fixture
def maker(tmp_path: Path) -> WritableDisks:
    return WritableDisks(str(tmp_path / "templates"))


@contextmanager
def mounted(disk: Path, where: Path, options: str = "loop") -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "ext4", "-o", options, disk, where], check=True)
    try:
        yield where
    finally:
        mount.umount(str(where))


def check(disk: Path) -> None:
    """Sound, sooner or later: a mount namespace that somebody makes meanwhile holds a copy of our mount for a while."""
    eventually(lambda: not subprocess.run(["e2fsck", "-fn", disk], capture_output=True, check=False).returncode)


@pytest.mark.parametrize("size", [disks.MIN_BYTES, 300 * MIB, disks.DEFAULT_BYTES, 1 << 40])
def test_a_disk_is_sparse_and_sound(maker: WritableDisks, tmp_path: Path, size: int) -> None:
    disk = tmp_path / "disk"
    maker.make(str(disk), size)
    found = disk.stat()
    assert found.st_size == size
    assert found.st_mode & 0o777 == 0o600
    assert found.st_blocks * 512 <= MIB + size // 50_000
    check(disk)
    with mounted(disk, tmp_path / "mnt") as root:
        assert os.statvfs(root).f_bavail > 0
        (root / "file").write_text("x")
    check(disk)


def test_templates_do_not_occupy_what_they_promise(maker: WritableDisks, tmp_path: Path) -> None:
    maker.make(str(tmp_path / "disk"))
    template = tmp_path / f"templates/{disks.DEFAULT_BYTES}.ext4"
    assert template.stat().st_blocks * 512 <= MIB
    assert os.listdir(template.parent) == [template.name]


def test_a_full_disk_is_an_error_inside_only(maker: WritableDisks, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    maker.make(str(disk), 40 * MIB)
    with mounted(disk, tmp_path / "mnt") as root, pytest.raises(OSError, match="No space left"):
        (root / "file").write_bytes(bytes(50 * MIB))
    assert disk.stat().st_size == 40 * MIB


def test_a_guest_that_was_killed_mounts_again(maker: WritableDisks, tmp_path: Path) -> None:
    """The disk as it is in the middle of writing is what a killed guest leaves."""
    disk, left = tmp_path / "disk", tmp_path / "left"
    maker.make(str(disk), 100 * MIB)
    with mounted(disk, tmp_path / "mnt") as root:
        for number in range(200):
            (root / f"f{number}").write_bytes(os.urandom(5000))
            if number == 150:
                os.sync()
        shutil.copy(disk, left)
    with mounted(left, tmp_path / "again") as root:
        assert len(list(root.glob("f*"))) >= 150
    check(left)


def test_an_existing_disk_is_kept(maker: WritableDisks, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_text("data")
    with pytest.raises(Conflict):
        maker.make(str(disk))
    assert disk.read_text() == "data"


@pytest.mark.parametrize("size", [-1, 0, disks.MIN_BYTES - 1, disks.MAX_BYTES + 1])
def test_sizes_that_are_not_possible(maker: WritableDisks, tmp_path: Path, size: int) -> None:
    with pytest.raises(Invalid, match="not possible"):
        maker.make(str(tmp_path / "disk"), size)
    assert not (tmp_path / "disk").exists()


def test_sizes_are_whole_mebibytes() -> None:
    assert check_size(40 * MIB + 1) == 41 * MIB


def test_many_at_once(maker: WritableDisks, tmp_path: Path) -> None:
    threads = [threading.Thread(target=maker.make, args=(str(tmp_path / f"d{n}"), 64 * MIB)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = (tmp_path / "d0").read_bytes()
    assert all((tmp_path / f"d{n}").read_bytes() == first for n in range(8))
    assert os.listdir(tmp_path / "templates") == [f"{64 * MIB}.ext4"]


def test_old_templates_go_and_dead_makers_leave_nothing(maker: WritableDisks, tmp_path: Path) -> None:
    (tmp_path / "templates/5.ext4.raw").write_text("a maker died")
    (tmp_path / "d0.part").write_text("so did this one")
    for number in range(20):
        maker.make(str(tmp_path / f"d{number}"), (40 + number) * MIB)
    assert not list(tmp_path.glob("*.part"))
    left = os.listdir(tmp_path / "templates")
    assert len(left) == 16
    assert f"{59 * MIB}.ext4" in left
    assert f"{40 * MIB}.ext4" not in left


def test_no_space_for_it(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    maker = WritableDisks(str(tmp_path / "templates"))
    mount.mount("none", str(small), "tmpfs", 0, "size=16k")
    try:
        with pytest.raises(Unavailable, match="the disk cannot be made: No space left"):
            maker.make(str(small / "disk"))
        assert os.listdir(small) == []
    finally:
        mount.umount(str(small))
