"""Where a subtree may live on v2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bireme.linux.cgroup import systemd, tree


def test_own_cgroup() -> None:
    assert systemd.own_cgroup("9:name=systemd:/x\n0::/system.slice/a.service\n") == "/system.slice/a.service"
    assert systemd.own_cgroup("0::/\n") == ""
    assert systemd.own_cgroup("1:cpu:/\n") == ""


@pytest.fixture
def unit(tmp_path: Path) -> str:
    """A delegated unit below a mount; needs a file system with user attributes."""
    path = tmp_path / "system.slice/bireme.service"
    (path / systemd.LEAF).mkdir(parents=True)
    try:
        os.setxattr(path, "user.delegate", b"1")
    except OSError:
        pytest.skip("no user attributes on this file system")
    return str(tmp_path)


def test_a_delegated_unit_is_the_base(unit: str) -> None:
    own = "/system.slice/bireme.service"
    assert systemd.find_base(unit, own) == unit + own
    assert systemd.find_base(unit, f"{own}/{systemd.LEAF}") == unit + own
    assert systemd.find_base(unit, "/system.slice") == unit
    assert systemd.find_base(unit, "") == unit


def test_controllers_are_handed_down(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids misc other\n")
    (tmp_path / "cgroup.subtree_control").write_text("pids\n")
    fd = tree.open_directory(str(tmp_path))
    enabled = systemd.enable_controllers(fd, frozenset({"cpu", "memory", "pids", "io"}), may_move=False)
    os.close(fd)
    assert enabled == {"cpu", "memory", "pids"}


@pytest.mark.parametrize("may_move", [True, False])
def test_processes_move_before_the_first_controller_is_enabled(tmp_path: Path, may_move: bool) -> None:
    (tmp_path / "cgroup.type").write_text("domain\n")
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    (tmp_path / "cgroup.procs").write_text("41\n")
    (tmp_path / systemd.LEAF).mkdir()
    leaf = tmp_path / systemd.LEAF / "cgroup.procs"
    leaf.write_text("")
    fd = tree.open_directory(str(tmp_path))
    enabled = systemd.enable_controllers(fd, frozenset({"cpu", "memory"}), may_move=may_move)
    os.close(fd)
    assert enabled == ({"cpu", "memory"} if may_move else set())
    assert leaf.read_text() == ("41" if may_move else "")


def test_processes_move_into_the_leaf(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("0\n41\n42\n")
    (tmp_path / systemd.LEAF).mkdir()
    procs = tmp_path / systemd.LEAF / "cgroup.procs"
    procs.write_text("")
    fd = tree.open_directory(str(tmp_path))
    systemd.move_processes(fd)
    os.close(fd)
    assert procs.read_text() == "42"
