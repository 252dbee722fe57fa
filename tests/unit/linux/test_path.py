import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bireme.linux import path as paths
from bireme.linux.libc import SyscallError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/passwd").write_text("outside")
    return root


@pytest.fixture
def root(tree: Path) -> Iterator[int]:
    fd = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def _target(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def test_absolute_links_stay_inside(tree: Path, root: int) -> None:
    (tree / "abs").symlink_to("/etc")
    assert _target(paths.open_in_root(root, "/abs/passwd")) == str(tree / "etc/passwd")


def test_dotdot_stays_inside(tree: Path, root: int) -> None:
    (tree / "up").symlink_to("../../../../outside")
    with pytest.raises(SyscallError) as caught:
        paths.open_in_root(root, "/up/passwd")
    assert caught.value.errno == errno.ENOENT


def test_magic_links_are_refused(tree: Path, root: int) -> None:
    proc = os.open("/proc", os.O_PATH)
    try:
        with pytest.raises(SyscallError) as caught:
            paths.open_in_root(proc, "self/root")
        assert caught.value.errno == errno.ELOOP
    finally:
        os.close(proc)


def test_mount_points_are_made_inside_even_through_links(tree: Path, tmp_path: Path, root: int) -> None:
    (tree / "var").symlink_to("/deep/er")
    (tree / "deep").mkdir()
    with pytest.raises(SyscallError) as caught:
        paths.make_mount_point(root, "/var/run", directory=True)
    assert caught.value.errno == errno.ENOENT
    (tree / "deep/er").mkdir()
    assert _target(paths.make_mount_point(root, "/var/run/x", directory=True)) == str(tree / "deep/er/run/x")
    assert _target(paths.make_mount_point(root, "/etc/hosts", directory=False)) == str(tree / "etc/hosts")
    assert (tree / "etc/hosts").read_text() == ""
    assert sorted(os.listdir(tmp_path / "outside")) == ["passwd"]


def test_a_file_point_that_is_a_link_out_lands_inside(tree: Path, tmp_path: Path, root: int) -> None:
    (tree / "etc/resolv.conf").symlink_to("../../outside/passwd")
    with pytest.raises(SyscallError):
        paths.make_mount_point(root, "/etc/resolv.conf", directory=False)
    assert (tmp_path / "outside/passwd").read_text() == "outside"


def test_kinds_must_match(tree: Path, root: int) -> None:
    with pytest.raises(SyscallError) as caught:
        paths.make_mount_point(root, "/etc", directory=False)
    assert caught.value.errno == errno.EISDIR
    with pytest.raises(SyscallError) as caught:
        paths.make_mount_point(root, "/etc/passwd", directory=True)
    assert caught.value.errno == errno.ENOTDIR


def test_dotdot_in_a_path_to_make_is_refused(root: int) -> None:
    with pytest.raises(SyscallError):
        paths.make_directories(root, "/a/../../b")


def test_reading_a_file_is_bounded_and_regular_only(tree: Path, root: int) -> None:
    assert paths.read_file_in_root(root, "/etc/passwd", 6) == b"root:x"
    os.mkfifo(tree / "pipe")
    with pytest.raises(SyscallError) as caught:
        paths.read_file_in_root(root, "/pipe", 6)
    assert caught.value.errno == errno.EINVAL


def test_root_itself(tree: Path, root: int) -> None:
    assert _target(paths.make_directories(root, "/")) == str(tree)
