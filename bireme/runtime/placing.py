"""Inside the child: the root over the floor, then everything else at its place.

`place_root` attaches the root over "/" and enters it: no pivot_root and no umount at start, the floor stays below,
empty and read-only. Mount points are looked up with openat2 below the root; /proc, /sys and /dev must be real
directories, since an image where /proc is a link could make the runtime write elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from bireme.linux import mount, path
from bireme.linux.libc import SyscallError
from bireme.linux.path import Resolve

if TYPE_CHECKING:
    from bireme.runtime.mountplan import MountPlan
    from bireme.runtime.plan import LaunchPlan
    from bireme.runtime.skeleton import Skeleton

_STRICT = int(Resolve.RESOLVE_IN_ROOT | Resolve.RESOLVE_NO_SYMLINKS)


def place_root(root: int, skeleton: Skeleton) -> None:
    """Attach the detached mount `root` over "/", chroot into it, move the skeleton's trees in."""
    mount.move_mount(root, mount.AT_FDCWD, "/", subject="rootfs")
    os.fchdir(root)
    os.chroot(".")
    for name, tree in skeleton.trees:
        target = _real_directory(root, name)
        mount.move_mount(tree, target, "", subject=f"/{name}")
        os.close(target)
        os.close(tree)


def _real_directory(root: int, name: str) -> int:
    """An O_PATH descriptor of /proc, /sys or /dev, made when absent; SyscallError when it is anything else."""
    try:
        return path.openat2(root, name, os.O_PATH | os.O_DIRECTORY, resolve=_STRICT)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise SyscallError(error.errno or 0, "open", f"/{name} of the image is not an ordinary directory") from None
    os.mkdir(name, 0o755, dir_fd=root)
    return path.openat2(root, name, os.O_PATH | os.O_DIRECTORY, resolve=_STRICT)


def place_mounts(plan: LaunchPlan, root: int, files: list[int], skeleton: Skeleton) -> list[int]:
    """Mounts, devices and masks in order; returns the descriptors that are left."""
    if plan["shm_size_bytes"]:
        mount.mount(None, "/dev/shm", None, 32 | 14, f"size={plan['shm_size_bytes']}")
    at = 0
    for entry in plan["mounts"]:
        if entry["kind"] == "bind":
            _place(files[at], root, entry["target"])
            at += 1
        else:
            fd = _make_filesystem(entry)
            _place(fd, root, entry["target"])
    for device in plan["devices"]:
        _place(files[at], root, device["path"])
        at += 1
    for target in plan["readonly"]:
        _make_readonly(root, target)
    for target in plan["masked"]:
        _mask(root, target, skeleton.empty)
    return files[at:]


def _place(fd: int, root: int, target: str) -> None:
    directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    try:
        point = path.make_mount_point(root, target, directory=directory)
    except SyscallError as error:
        raise SyscallError(error.errno or 0, "mount", f"{target} ({error.call})") from None
    mount.move_mount(fd, point, "", subject=target)
    os.close(point)
    os.close(fd)


def _make_filesystem(entry: MountPlan) -> int:
    options: list[tuple[str, str | None]] = [("source", entry["source"])]
    options += [(str(key), value) for key, value in entry["options"]]
    fd = mount.new_filesystem(entry["type"], options, entry["add"])
    if entry["propagation"]:
        mount.set_attributes(fd, propagation=entry["propagation"])
    return fd


def _open_quietly(root: int, target: str) -> int:
    try:
        return path.open_in_root(root, target)
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return -1
        raise


def _make_readonly(root: int, target: str) -> None:
    point = _open_quietly(root, target)
    if point < 0:
        return
    tree = mount.open_tree(point, "", recursive=True)
    mount.set_attributes(tree, add=1, recursive=True)
    mount.move_mount(tree, point, "", subject=target)
    os.close(tree)
    os.close(point)


def _mask(root: int, target: str, empty: int) -> None:
    point = _open_quietly(root, target)
    if point < 0:
        return
    if stat.S_ISDIR(os.fstat(point).st_mode):
        cover = mount.open_tree(empty, "")
        mount.set_attributes(cover, add=1)
    else:
        null = path.open_in_root(root, "/dev/null")
        cover = mount.open_tree(null, "")
        os.close(null)
    mount.move_mount(cover, point, "", subject=target)
    os.close(cover)
    os.close(point)
