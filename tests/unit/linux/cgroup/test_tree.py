"""Hierarchies from mountinfo, and work on directories, on a tree of plain files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bireme.errors import Conflict, Denied, Internal, Invalid, Unsupported
from bireme.linux.cgroup import tree

KNOWN = ["cpu", "cpuacct", "memory", "pids", "freezer", "devices"]

SPLIT = """\
25 30 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
26 25 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
27 25 0:24 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
28 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct
29 25 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:13 - cgroup cgroup rw,memory
31 40 0:26 / /var/lib/other\\040place/memory rw - cgroup cgroup rw,memory
"""
UNIFIED = "35 30 0:30 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_v1_hierarchies() -> None:
    found = tree.find_hierarchies(SPLIT, KNOWN)
    assert [(h.path.rpartition("/")[2], h.controllers, h.unified) for h in found] == [
        ("unified", (), True),
        ("systemd", ("systemd",), False),
        ("cpu,cpuacct", ("cpu", "cpuacct"), False),
        ("memory", ("memory",), False),
    ]


def test_v2_hierarchy() -> None:
    (found,) = tree.find_hierarchies(UNIFIED, KNOWN)
    assert (found.path, found.unified) == ("/sys/fs/cgroup", True)
    assert tree.find_hierarchies("36 30 0:31 / /tmp rw - tmpfs tmpfs rw\n", KNOWN) == []


@pytest.mark.parametrize("subtree", ["..", "a/../b", "a\nb", "a/./b"])
def test_subtrees_do_not_climb(subtree: str) -> None:
    with pytest.raises(Invalid):
        tree.check_subtree(subtree)


def test_subtrees() -> None:
    assert tree.check_subtree("/a/b") == tree.check_subtree("a/b/") == ["a", "b"]
    assert tree.check_subtree("/") == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EINVAL, Invalid),
        (errno.ERANGE, Invalid),
        (errno.EBUSY, Conflict),
        (errno.EPERM, Denied),
        (errno.ENOENT, Unsupported),
        (errno.EIO, Internal),
    ],
)
def test_refusals_have_kinds(number: int, kind: type[Exception]) -> None:
    error = tree.write_error("one", "memory.max", "5", OSError(number, "no"))
    assert type(error) is kind
    assert "memory.max" in str(error)


@pytest.fixture
def directory(tmp_path: Path) -> int:
    for path in ("a/b/c", "a/d", "e"):
        (tmp_path / path).mkdir(parents=True)
    for number, path in enumerate(("a", "a/b", "a/b/c", "a/d", "e"), 100):
        (tmp_path / path / "cgroup.procs").write_text(f"{number}\n{number + 50}\n")
    return tree.open_directory(str(tmp_path))


def test_processes_below_count(directory: int) -> None:
    assert sorted(tree.read_pids(directory, "a")) == [100, 101, 102, 103, 150, 151, 152, 153]
    assert tree.read_pids(directory, "e") == [104, 154]
    assert tree.read_pids(directory, "nothing") == []
    os.close(directory)


def test_children_are_removed_first(directory: int, tmp_path: Path) -> None:
    assert not tree.remove_directory(directory, "a")
    for path in tmp_path.rglob("cgroup.procs"):
        path.unlink()
    assert tree.remove_directory(directory, "a")
    assert tree.remove_directory(directory, "a")
    assert tree.list_children(directory) == ["e"]
    os.close(directory)


def test_files(directory: int, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 200_000)
    (tmp_path / "limit").write_text("")
    assert len(tree.read_file(directory, "big")) == 200_000
    assert tree.read_optional(directory, "absent") == ""
    tree.write_file(directory, "limit", b"5")
    assert (tmp_path / "limit").read_text() == "5"
    os.close(directory)


def test_polling_asks_once_more_at_the_end() -> None:
    answers = iter([False, False, True])
    assert tree.poll_until(lambda: next(answers), 10.0)
    assert not tree.poll_until(lambda: False, 0.0)


def test_every_process_is_signalled_once() -> None:
    rounds = iter([[2**22 + 1], [2**22 + 1, 2**22 + 2], [2**22 + 2]])
    assert tree.signal_all(lambda: next(rounds), 0)
    fresh = iter(range(2**22, 2**23))
    assert not tree.signal_all(lambda: [next(fresh)], 0, passes=5)
