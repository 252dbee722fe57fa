"""Cgroups v1 and v2 behind one Protocol (contract.CgroupManager); `open_cgroups` picks what the machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bireme.linux.cgroup.contract import (
    ALLOW_ALL,
    DEFAULT_RULES,
    NO_LIMITS,
    CgroupLimits,
    CgroupManager,
    DeviceRule,
    join_fds,
)
from bireme.linux.cgroup.limits import limits_from_resources

if TYPE_CHECKING:
    from bireme.linux.cgroup.tree import MountedHierarchy

__all__ = [
    "ALLOW_ALL",
    "DEFAULT_RULES",
    "NO_LIMITS",
    "CgroupLimits",
    "CgroupManager",
    "DeviceRule",
    "join_fds",
    "limits_from_resources",
    "open_cgroups",
]


def open_cgroups(subtree: str, *, favordynmods: bool = False) -> CgroupManager:
    """The manager of `subtree` (made when missing; nested with slashes) on this machine.

    v1 when any controller is mounted the v1 way, else v2. Unsupported when nothing is mounted, Denied without rights.
    `favordynmods`: see dynmods.py; in force until the manager is closed.
    """
    from bireme.linux.cgroup.tree import find_hierarchies, known_controllers

    with open("/proc/self/mountinfo") as file:
        hierarchies = find_hierarchies(file.read(), known_controllers())
    return _manager(hierarchies, subtree, favordynmods)


def _manager(hierarchies: list[MountedHierarchy], subtree: str, favordynmods: bool) -> CgroupManager:
    old = [h for h in hierarchies if not h.unified and h.controllers != ("bireme",)]
    unified = next((h for h in hierarchies if h.unified), None)
    if unified is None or any(h.controllers != ("systemd",) for h in old):
        from bireme.linux.cgroup.v1 import CgroupsV1

        return CgroupsV1(old, subtree, favordynmods)
    from bireme.linux.cgroup.v2 import CgroupsV2

    return CgroupsV2(unified, subtree, favordynmods)
