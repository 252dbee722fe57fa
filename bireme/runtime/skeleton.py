"""The skeleton: /proc, /sys and /dev of a container, built before its root file system is known.

`make_dev` runs before the clone, with the rights of the initial user namespace: device nodes can be made there (mknod
is EPERM in any other), in a tmpfs that belongs to nobody yet and whose files are given to the container's root. The
child moves it in, so /dev of a container in a user namespace looks like any other, without a bind mount per node.

`build` runs in the child. The new root is an empty tmpfs laid over "/"; since absolute look-ups still start below it,
the host's tree stays reachable until `pivot_to` lets go of all of it at once. A user namespace may mount proc, sysfs,
mqueue only when the pid, net or ipc namespace is its own; with a shared one the kernel says EPERM and the host's tree
is bound instead, as runc does. At the end the floor is made read-only, and with it the directory that masks others.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from bireme.linux import mount, procfs
from bireme.linux.libc import SyscallError
from bireme.runtime.defaults import DEVICE_LINKS, DEVICES
from bireme.runtime.mountplan import TOPS

if TYPE_CHECKING:
    from bireme.runtime.mountplan import DevicePlan, PseudoMount, SkeletonPlan

_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC = 1, 32, 4096, 16384
_READ_ONLY_BIND = 15 | _MS_REMOUNT | _MS_BIND
_EMPTY = ".empty"

_DEV_NODES = tuple((name, os.makedev(major, minor)) for name, major, minor in DEVICES)
_DEVICE_TYPES = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}

_ATTRIBUTES = ((1, 1), (2, 2), (4, 4), (8, 8), (1 << 24, 0x20), (1024, 0x10))


class Skeleton(NamedTuple):
    """What `build` leaves for the second half: descriptors that outlive the change of root.

    `trees`: (name, descriptor) of proc, sys, dev; `empty` a read-only empty directory; `sysctl` /proc/sys without its
    read-only cover; -1 where there is none.
    """

    trees: tuple[tuple[str, int], ...]
    empty: int
    sysctl: int


def dev_mount(plan: SkeletonPlan) -> PseudoMount | None:
    """The tmpfs at /dev, when the plan has one."""
    for entry in plan["mounts"]:
        if entry["target"] == "/dev" and entry["type"] == "tmpfs":
            return entry
    return None


def make_dev(plan: SkeletonPlan, uid: int, gid: int) -> int:
    """A detached tmpfs with the device nodes, owned by the host's `uid` and `gid`; -1 without /dev."""
    entry = dev_mount(plan)
    if entry is None:
        return -1
    attributes = sum(attribute for ms, attribute in _ATTRIBUTES if entry["flags"] & ms)
    options: list[tuple[str, str | None]] = [("source", "tmpfs"), ("uid", str(uid)), ("gid", str(gid))]
    for word in filter(None, entry["data"].split(",")):
        key, equals, value = word.partition("=")
        options.append((key, value if equals else None))
    fd = mount.new_filesystem("tmpfs", options, attributes)
    old = os.umask(0)
    try:
        for name, device in _DEV_NODES:
            os.mknod(name, stat.S_IFCHR | 0o666, device, dir_fd=fd)
            os.chown(name, uid, gid, dir_fd=fd)
        for device_plan in plan["devices"]:
            make_node(fd, device_plan["path"].removeprefix("/dev/"), device_plan, uid, gid)
    except BaseException:
        os.close(fd)
        raise
    finally:
        os.umask(old)
    return fd


def make_node(directory: int, name: str, plan: DevicePlan, uid: int, gid: int) -> None:
    """One device node (umask must be 0); parents are made. `uid`, `gid` are what the container's root is outside."""
    parts = name.split("/")
    for depth in range(1, len(parts)):
        parent = "/".join(parts[:depth])
        try:
            os.mkdir(parent, 0o755, dir_fd=directory)
            os.chown(parent, uid, gid, dir_fd=directory)
        except FileExistsError:
            continue
    kind = _DEVICE_TYPES[plan["kind"]]
    os.mknod(name, kind | plan["mode"], os.makedev(plan["major"], plan["minor"]), dir_fd=directory)
    os.chown(name, uid + plan["uid"], gid + plan["gid"], dir_fd=directory)


def build(plan: SkeletonPlan, dev: int, cgroups: list[procfs.CgroupMount], *, cgroup_private: bool) -> Skeleton:
    """Build the tree, pivot into it, and open what the second half needs. The caller's namespaces are the child's."""
    mount.make_private("/")
    floor = mount.new_filesystem("tmpfs", (("source", "none"), ("size", "64k"), ("mode", "755")), 0xE)
    mount.move_mount(floor, mount.AT_FDCWD, "/", subject="skeleton")
    os.fchdir(floor)
    os.mkdir(_EMPTY, 0o755)
    for entry in plan["mounts"]:
        _mount_pseudo(entry, dev, cgroups, cgroup_private)
    sysctl = _open_if_there("proc/sys")
    for path in plan["readonly"]:
        _make_readonly(path[1:])
    for path in plan["masked"]:
        _mask(path[1:])
    mount.pivot_to(".")
    trees = tuple((name, fd) for name, fd in ((top[1:], _open_if_there(top[1:])) for top in TOPS) if fd >= 0)
    empty = os.open(_EMPTY, os.O_PATH | os.O_CLOEXEC)
    mount.mount(None, "/", None, _MS_REMOUNT | 15)
    os.close(floor)
    return Skeleton(trees, empty, sysctl)


def _open_if_there(path: str) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def _mount_pseudo(entry: PseudoMount, dev: int, cgroups: list[procfs.CgroupMount], cgroup_private: bool) -> None:
    target = entry["target"][1:]
    kind = entry["type"]
    if not os.path.isdir(target):
        os.makedirs(target, 0o755)
    if target == "dev" and dev >= 0:
        for link, name in DEVICE_LINKS:
            os.symlink(link, name, dir_fd=dev)
        mount.move_mount(dev, mount.AT_FDCWD, "dev")
        os.close(dev)
    elif kind in ("cgroup", "cgroup2"):
        _mount_cgroups(target, entry["flags"], cgroups, cgroup_private)
    else:
        try:
            mount.mount(entry["source"], target, kind, entry["flags"], entry["data"])
        except SyscallError as error:
            if error.errno != errno.EPERM or kind not in ("proc", "sysfs", "mqueue"):
                raise
            _bind_from_host(entry["target"], target, entry["flags"])


def _bind_from_host(source: str, target: str, flags: int) -> None:
    """The host's own tree, for a namespace shared with the host or another container."""
    tree = mount.open_tree(mount.AT_FDCWD, source, recursive=True)
    try:
        mount.set_attributes(tree, add=flags & 15, recursive=True)
        mount.move_mount(tree, mount.AT_FDCWD, target)
    finally:
        os.close(tree)


def _mount_cgroups(target: str, flags: int, cgroups: list[procfs.CgroupMount], private: bool) -> None:
    if len(cgroups) == 1 and cgroups[0].version == 2:
        if private:
            _mount_unified(target, flags)
        else:
            _bind_from_host(cgroups[0].path, target, flags)
        return
    mount.mount("tmpfs", target, "tmpfs", 14, "mode=755")
    for hierarchy in cgroups:
        if hierarchy.version == 2:
            continue
        name = os.path.basename(hierarchy.path)
        os.mkdir(f"{target}/{name}", 0o755)
        if private:
            mount.mount("cgroup", f"{target}/{name}", "cgroup", flags, hierarchy.options)
        else:
            _bind_from_host(hierarchy.path + hierarchy.own, f"{target}/{name}", flags)
        for part in name.split(",") if "," in name else ():
            os.symlink(name, f"{target}/{part}")
    if flags & _MS_RDONLY:
        mount.mount(None, target, None, _READ_ONLY_BIND)


def _mount_unified(target: str, flags: int) -> None:
    """Attached by descriptor: mount(2) refuses a file system on top of itself (EBUSY), as where the host's /sys with
    its cgroups had to be bound."""
    fd = mount.new_filesystem("cgroup2", (("source", "cgroup"),), flags & 15)
    mount.move_mount(fd, mount.AT_FDCWD, target)
    os.close(fd)


def _make_readonly(path: str) -> None:
    try:
        mount.mount(path, path, None, _MS_BIND | _MS_REC)
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return
        raise
    mount.mount(None, path, None, _READ_ONLY_BIND)


def _mask(path: str) -> None:
    """A file becomes /dev/null, a directory an empty one. What is not there needs no mask."""
    try:
        directory = stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    source = _EMPTY if directory else "dev/null" if os.path.exists("dev/null") else "/dev/null"
    mount.mount(source, path, None, _MS_BIND)
    if directory:
        mount.mount(None, path, None, _READ_ONLY_BIND)
