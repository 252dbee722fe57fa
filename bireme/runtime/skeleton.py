"""The skeleton: /proc, /sys and /dev of a container, built before its root file system is known.

`make_dev` runs before the clone, with the rights of the initial user namespace: device nodes can be made there (mknod
is EPERM in any other), in a tmpfs that belongs to nobody yet and whose files are given to the container's root. The
child moves it in, so /dev of a container in a user namespace looks like any other, without a bind mount per node.

`build` runs in the child; what it mounts is planned (skeletonplan.py), for spares before the clone. The new root is an
empty tmpfs laid over "/"; since absolute look-ups still start below it, the host's tree stays reachable until
`pivot_to` lets go of all of it at once. A user namespace may mount proc, sysfs, mqueue only when the pid, net or ipc
namespace is its own; with a shared one the kernel says EPERM and the host's tree is bound instead, as runc does. At the
end the floor is made read-only, and with it the directory that masks others.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from bireme.linux import mount
from bireme.linux.steps import run
from bireme.runtime.defaults import DEVICES
from bireme.runtime.mountplan import TOPS
from bireme.runtime.skeletonplan import EMPTY, dev_mount

if TYPE_CHECKING:
    from bireme.runtime.mountplan import DevicePlan, SkeletonPlan
    from bireme.runtime.skeletonplan import SkeletonSteps

_READ_ONLY = 32 | 15

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


def build(dev: int, steps: SkeletonSteps) -> Skeleton:
    """Build the tree, pivot into it, and open what the second half needs. The caller's namespaces are the child's,
    `dev` is what `make_dev` made; it is closed."""
    mount.make_private("/")
    floor = mount.new_filesystem("tmpfs", (("source", "none"), ("size", "64k"), ("mode", "755")), 0xE)
    mount.move_mount(floor, mount.AT_FDCWD, "/", subject="skeleton")
    os.fchdir(floor)
    os.mkdir(EMPTY, 0o755)
    if dev >= 0:
        os.mkdir("dev", 0o755)
        mount.move_mount(dev, mount.AT_FDCWD, "dev")
        os.close(dev)
    run(steps.mounts)
    sysctl = _open_if_there("proc/sys")
    run(steps.covers)
    mount.pivot_to(".")
    trees = tuple((name, fd) for name, fd in ((top[1:], _open_if_there(top[1:])) for top in TOPS) if fd >= 0)
    empty = os.open(EMPTY, os.O_PATH | os.O_CLOEXEC)
    mount.mount(None, "/", None, _READ_ONLY)
    os.close(floor)
    return Skeleton(trees, empty, sysctl)


def _open_if_there(path: str) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
