"""The skeleton as a list of system calls, each with what to do when it fails.

What /proc and /sys hold is known only once they are mounted: a path to mask that the host shows as a directory is taken
for one, and looked at when that turns out wrong; one that is not there needs no mask.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from bireme.linux import mount, steps
from bireme.linux.libc import SyscallError
from bireme.runtime.defaults import DEVICE_LINKS

if TYPE_CHECKING:
    from bireme.linux.procfs import CgroupMount
    from bireme.linux.steps import Step
    from bireme.runtime.mountplan import PseudoMount, SkeletonPlan

EMPTY = ".empty"
"""A directory of the floor, read-only at last: it masks others."""
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC = 1, 32, 4096, 16384
_READ_ONLY_BIND = 15 | _MS_REMOUNT | _MS_BIND


class SkeletonSteps(NamedTuple):
    """What is mounted, then what hides or protects parts of it."""

    mounts: list[Step]
    covers: list[Step]


def dev_mount(plan: SkeletonPlan) -> PseudoMount | None:
    """The tmpfs at /dev, when the plan has one."""
    for entry in plan["mounts"]:
        if entry["target"] == "/dev" and entry["type"] == "tmpfs":
            return entry
    return None


def plan_skeleton(plan: SkeletonPlan, cgroups: list[CgroupMount], *, cgroup_private: bool) -> SkeletonSteps:
    """For a process whose working directory is the floor, with `dev_mount` in its place already."""
    dev = dev_mount(plan)
    mounts = [steps.make_link(text, f"dev/{name}") for text, name in DEVICE_LINKS] if dev else []
    made = {"dev"} if dev else set()
    for entry in plan["mounts"]:
        if entry is not dev:
            mounts += _make_parents(entry["target"][1:], made)
            mounts += _plan_pseudo(entry, cgroups, cgroup_private)
    covers: list[Step] = []
    for path in plan["readonly"]:
        covers += _plan_readonly(path[1:])
    for path in plan["masked"]:
        covers += _plan_mask(path[1:], has_null=dev is not None)
    return SkeletonSteps(mounts, covers)


def _make_parents(target: str, made: set[str]) -> list[Step]:
    """Directories on the way to `target`, and itself."""
    parts = target.split("/")
    paths = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    missing = [path for path in paths if path not in made]
    made.update(missing)
    return [steps.make_directory(path) for path in missing]


def _plan_pseudo(entry: PseudoMount, cgroups: list[CgroupMount], private: bool) -> list[Step]:
    target, kind = entry["target"][1:], entry["type"]
    if kind in ("cgroup", "cgroup2"):
        return _plan_cgroups(target, entry["flags"], cgroups, private)
    otherwise = partial(_bind_instead, entry) if kind in ("proc", "sysfs", "mqueue") else None
    return [steps.mount(entry["source"], target, kind, entry["flags"], entry["data"], otherwise)]


def _bind_instead(entry: PseudoMount, error: SyscallError) -> int:
    if error.errno != errno.EPERM:
        raise error
    return _bind_from_host(entry["target"], entry["target"][1:], entry["flags"])


def _bind_from_host(source: str, target: str, flags: int) -> int:
    """The host's own tree, for a namespace shared with the host or another container."""
    tree = mount.open_tree(mount.AT_FDCWD, source, recursive=True)
    try:
        mount.set_attributes(tree, add=flags & 15, recursive=True)
        mount.move_mount(tree, mount.AT_FDCWD, target)
    finally:
        os.close(tree)
    return 0


def _plan_cgroups(target: str, flags: int, cgroups: list[CgroupMount], private: bool) -> list[Step]:
    if len(cgroups) == 1 and cgroups[0].version == 2:
        if private:
            return [steps.several(_mount_unified, target, flags)]
        return [steps.several(_bind_from_host, cgroups[0].path, target, flags)]
    found = [steps.mount("tmpfs", target, "tmpfs", 14, "mode=755")]
    for hierarchy in cgroups:
        if hierarchy.version != 2:
            found += _plan_hierarchy(target, flags, hierarchy, private)
    if flags & _MS_RDONLY:
        found.append(steps.mount(None, target, None, _READ_ONLY_BIND))
    return found


def _plan_hierarchy(target: str, flags: int, hierarchy: CgroupMount, private: bool) -> list[Step]:
    name = os.path.basename(hierarchy.path)
    place = f"{target}/{name}"
    links = [steps.make_link(name, f"{target}/{part}") for part in name.split(",")] if "," in name else []
    if private:
        attach = steps.mount("cgroup", place, "cgroup", flags, hierarchy.options)
    else:
        attach = steps.several(_bind_from_host, hierarchy.path + hierarchy.own, place, flags)
    return [steps.make_directory(place), attach, *links]


def _mount_unified(target: str, flags: int) -> int:
    """Attached by descriptor: mount(2) refuses a file system on top of itself (EBUSY), as where the host's /sys with
    its cgroups had to be bound."""
    fd = mount.new_filesystem("cgroup2", (("source", "cgroup"),), flags & 15)
    mount.move_mount(fd, mount.AT_FDCWD, target)
    os.close(fd)
    return 0


def _plan_readonly(path: str) -> list[Step]:
    bind = steps.mount(path, path, None, _MS_BIND | _MS_REC, otherwise=_leave_if_missing)
    return [
        bind._replace(tolerated=errno.ENOENT, rest=1),
        steps.mount(None, path, None, _READ_ONLY_BIND),
    ]


def _leave_if_missing(error: SyscallError) -> int:
    """Nor is it remounted."""
    if error.errno != errno.ENOTDIR:
        raise error
    return 1


def _plan_mask(path: str, *, has_null: bool) -> list[Step]:
    if not has_null:
        return [steps.several(_mask, path)]
    if not os.path.isdir(f"/{path}"):
        step = steps.mount("dev/null", path, None, _MS_BIND, otherwise=lambda _error: _mask(path))
        return [step._replace(tolerated=errno.ENOENT)]
    return [
        steps.mount(EMPTY, path, None, _MS_BIND, otherwise=lambda _error: _mask(path) + 1),
        steps.mount(None, path, None, _READ_ONLY_BIND),
    ]


def _mask(path: str) -> int:
    """A file becomes /dev/null, a directory an empty one. What is not there needs no mask."""
    try:
        directory = stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    source = EMPTY if directory else "dev/null" if os.path.exists("dev/null") else "/dev/null"
    mount.mount(source, path, None, _MS_BIND)
    if directory:
        mount.mount(None, path, None, _READ_ONLY_BIND)
    return 0
