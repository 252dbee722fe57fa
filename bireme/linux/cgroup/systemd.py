"""Where on a v2 machine our cgroups may live.

systemd owns the v2 tree and lets a unit manage a part of it when the unit says `Delegate=yes`; it marks the unit's
cgroup with the extended attribute `trusted.delegate` (and `user.delegate`). Then everything of ours is made below that
cgroup. Because v2 allows no processes in a cgroup that hands controllers to its children, whoever lives in the unit's
cgroup moves into the leaf `host` first. Without delegation (a shell, a machine without systemd, a container) the
subtree goes to the top of the hierarchy.
"""

from __future__ import annotations

import errno
import os

from bireme.linux.cgroup import tree

LEAF = "host"
_MARKS = ("trusted.delegate", "user.delegate")


def own_cgroup(text: str) -> str:
    """The v2 path in the text of /proc/self/cgroup, "" for the top."""
    for line in text.splitlines():
        if line.startswith("0::"):
            return line[3:].rstrip("/")
    return ""


def is_delegated(path: str) -> bool:
    for mark in _MARKS:
        try:
            if os.getxattr(path, mark) == b"1":
                return True
        except OSError:
            continue
    return False


def find_base(mount: str, own: str) -> str:
    """The directory below which the subtree goes: our delegated unit's, else the mount itself."""
    candidates = [own]
    if own.endswith(f"/{LEAF}"):
        candidates.insert(0, own.rpartition("/")[0])
    for path in candidates:
        if path and is_delegated(mount + path):
            return mount + path
    return mount


def enable_controllers(dir_fd: int, wanted: frozenset[str], *, may_move: bool) -> frozenset[str]:
    """Hand controllers to the children of the cgroup; those that children have afterwards. With `may_move`, processes
    that stand in the way move into the leaf.

    They move before the first controller: cpu and pids can be enabled above processes, but that makes the cgroup the
    root of a threaded subtree, where no child may hold a process (EOPNOTSUPP).
    """
    available = frozenset(tree.read_file(dir_fd, "cgroup.controllers").split())
    enabled = frozenset(tree.read_file(dir_fd, "cgroup.subtree_control").split())
    missing = sorted((available & wanted) - enabled)
    if missing and _is_populated(dir_fd):
        if not may_move:
            return enabled
        move_processes(dir_fd)
    for controller in missing:
        if _enable(dir_fd, controller, may_move):
            enabled |= {controller}
    return enabled


def _is_populated(dir_fd: int) -> bool:
    """Has processes of its own; the top of the hierarchy (without a cgroup.type) may, and does not count."""
    if not tree.read_optional(dir_fd, "cgroup.type"):
        return False
    return bool(tree.read_optional(dir_fd, "cgroup.procs").strip())


def _enable(dir_fd: int, controller: str, may_move: bool) -> bool:
    for attempt in range(3):
        try:
            tree.write_file(dir_fd, "cgroup.subtree_control", f"+{controller}".encode())
        except OSError as error:
            if error.errno == errno.EBUSY and may_move and attempt < 2:
                move_processes(dir_fd)
                continue
            if error.errno in (errno.EBUSY, errno.EINVAL, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP):
                return False
            raise
        return True
    return False


def move_processes(dir_fd: int) -> None:
    """Move every process of the cgroup itself into its leaf."""
    tree.make_directory(dir_fd, LEAF)
    for pid in tree.read_file(dir_fd, "cgroup.procs").split():
        if pid == "0":
            continue
        try:
            tree.write_file(dir_fd, f"{LEAF}/cgroup.procs", pid.encode())
        except ProcessLookupError:
            continue
