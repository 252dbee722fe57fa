"""Cloning a child, where the kernel can straight into its cgroup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bireme.linux import fd, process

if TYPE_CHECKING:
    from bireme.runtime.sync import Joiner


def clone_into(cgroups: Joiner | None, cgroup: str, flags: int) -> tuple[int, int, bool]:
    """(pid, pidfd, whether it is in the cgroup); pid is 0 and pidfd -1 in the child. clone3(2), CLONE_INTO_CGROUP."""
    directory = cgroups.clone_fd(cgroup) if cgroups is not None and cgroup else -1
    try:
        pid, pidfd = process.clone3(flags, pidfd=True, cgroup_fd=directory)
    finally:
        fd.close_quietly(directory)
    return pid, pidfd, directory >= 0
