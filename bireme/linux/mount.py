"""Mounts: the classic calls and the new API (mounts as descriptors).

The new API (fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2)) makes a mount that is
nowhere yet: a descriptor that can be given to another process, also one in another user namespace, and attached there.
That is how a start makes everything outside and only moves it in. The flags of the two APIs differ: MS_X for mount(2),
MOUNT_ATTR_X for the rest.

A bind mount is not made read-only by MS_RDONLY at first: classic remount, or mount_setattr on the descriptor.
In a user namespace flags that were locked on the source (nosuid, nodev, noexec, ro, atime) must be kept: clearing one
is EPERM.
"""

from __future__ import annotations

import ctypes
import os
import struct
from enum import IntFlag
from typing import TYPE_CHECKING

from bireme.linux.libc import SyscallError, syscall
from bireme.linux.numbers import number, optional_number

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOUNT = optional_number("mount")
_UMOUNT2 = optional_number("umount2")
_PIVOT_ROOT = optional_number("pivot_root")
_OPEN_TREE = number("open_tree")
_MOVE_MOUNT = number("move_mount")
_FSOPEN = number("fsopen")
_FSCONFIG = number("fsconfig")
_FSMOUNT = number("fsmount")
_MOUNT_SETATTR = number("mount_setattr")

AT_FDCWD = -100


class MountFlags(IntFlag):
    """MS_* of mount(2)."""

    MS_RDONLY = 1
    MS_NOSUID = 2
    MS_NODEV = 4
    MS_NOEXEC = 8
    MS_SYNCHRONOUS = 16
    MS_REMOUNT = 32
    MS_MANDLOCK = 64
    MS_DIRSYNC = 128
    MS_NOSYMFOLLOW = 256
    MS_NOATIME = 1024
    MS_NODIRATIME = 2048
    MS_BIND = 4096
    MS_MOVE = 8192
    MS_REC = 16384
    MS_SILENT = 32768
    MS_UNBINDABLE = 1 << 17
    MS_PRIVATE = 1 << 18
    MS_SLAVE = 1 << 19
    MS_SHARED = 1 << 20
    MS_RELATIME = 1 << 21
    MS_STRICTATIME = 1 << 24
    MS_LAZYTIME = 1 << 25


class MountAttr(IntFlag):
    """MOUNT_ATTR_* of fsmount(2) and mount_setattr(2)."""

    MOUNT_ATTR_RDONLY = 0x1
    MOUNT_ATTR_NOSUID = 0x2
    MOUNT_ATTR_NODEV = 0x4
    MOUNT_ATTR_NOEXEC = 0x8
    MOUNT_ATTR__ATIME = 0x70
    MOUNT_ATTR_RELATIME = 0x0
    MOUNT_ATTR_NOATIME = 0x10
    MOUNT_ATTR_STRICTATIME = 0x20
    MOUNT_ATTR_NODIRATIME = 0x80
    MOUNT_ATTR_IDMAP = 0x100000
    MOUNT_ATTR_NOSYMFOLLOW = 0x200000


MNT_DETACH = 2
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_SET_FD = 5
_FSCONFIG_CMD_CREATE = 6
_mount_attr = struct.Struct("=4Q")


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    syscall("mount", _MOUNT, _text(source), os.fsencode(target), _text(kind), int(flags), _text(data), subject=target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2); MNT_DETACH takes the whole tree out of sight at once."""
    syscall("umount2", _UMOUNT2, os.fsencode(target), flags, subject=target)


def make_private(target: str = "/") -> None:
    """Stop mount events to and from the tree at `target`."""
    mount(None, target, None, 0x4000 | 1 << 18)


def make_slave(target: str = "/") -> None:
    """The tree at `target` still receives mount events but sends none."""
    mount(None, target, None, 0x4000 | 1 << 19)


def pivot_to(directory: str) -> None:
    """Make `directory` (a mount point) the root and let go of everything that was above it. pivot_root(2)."""
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(directory)
        syscall("pivot_root", _PIVOT_ROOT, b".", b".", subject=directory)
        os.fchdir(old)
        umount(".", MNT_DETACH)
    finally:
        os.close(old)
    os.chdir("/")


def open_filesystem(kind: str) -> int:
    """fsopen(2): a configuration context (CLOEXEC)."""
    return syscall("fsopen", _FSOPEN, kind.encode(), _FSOPEN_CLOEXEC, subject=kind)


def set_flag(context: int, key: str) -> None:
    """fsconfig(2) FSCONFIG_SET_FLAG."""
    _configure(context, _FSCONFIG_SET_FLAG, key, None)


def set_string(context: int, key: str, value: str) -> None:
    """fsconfig(2) FSCONFIG_SET_STRING: at most 255 bytes of value."""
    _configure(context, _FSCONFIG_SET_STRING, key, value)


def set_fd(context: int, key: str, fd: int) -> None:
    """fsconfig(2) FSCONFIG_SET_FD (overlay layers since Linux 6.13)."""
    syscall("fsconfig", _FSCONFIG, context, _FSCONFIG_SET_FD, key.encode(), None, fd, subject=key)


def _configure(context: int, command: int, key: str, value: str | None) -> None:
    try:
        syscall("fsconfig", _FSCONFIG, context, command, key.encode(), _text(value), 0)
    except SyscallError as error:
        raise SyscallError(error.errno or 0, "fsconfig", _with_log(context, f"{key}={value}")) from None


def create_mount(context: int, attributes: int = 0) -> int:
    """FSCONFIG_CMD_CREATE and fsmount(2): a detached mount (CLOEXEC); the kernel's own words go into the error."""
    try:
        syscall("fsconfig", _FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return syscall("fsmount", _FSMOUNT, context, _FSMOUNT_CLOEXEC, int(attributes))
    except SyscallError as error:
        raise SyscallError(error.errno or 0, error.call, _with_log(context, "")) from None


def _with_log(context: int, subject: str) -> str:
    """The subject, with what the kernel logged to the context (e.g. "overlay: ...")."""
    lines = []
    while True:
        try:
            line = os.read(context, 1024)
        except OSError:
            break
        if not line:
            break
        lines.append(line.decode("utf-8", "replace").strip().removeprefix("e "))
    return "; ".join(filter(None, [subject, *lines]))


def new_filesystem(kind: str, options: Iterable[tuple[str, str | None]] = (), attributes: int = 0) -> int:
    """A new detached mount of file system `kind`; an option with None is a flag. `attributes` are MOUNT_ATTR_*."""
    context = open_filesystem(kind)
    try:
        for key, value in options:
            if value is None:
                set_flag(context, key)
            else:
                set_string(context, key, value)
        return create_mount(context, attributes)
    finally:
        os.close(context)


def open_tree(directory: int, path: str, *, recursive: bool = False, clone: bool = True, follow: bool = True) -> int:
    """open_tree(2): a detached copy of the mount (tree) at `path`, as a descriptor; "" means `directory` itself."""
    flags = _OPEN_TREE_CLOEXEC
    if clone:
        flags |= _OPEN_TREE_CLONE
        if recursive:
            flags |= AT_RECURSIVE
    if not path:
        flags |= AT_EMPTY_PATH
    elif not follow:
        flags |= AT_SYMLINK_NOFOLLOW
    return syscall("open_tree", _OPEN_TREE, directory, os.fsencode(path), flags, subject=path)


def move_mount(fd: int, directory: int, path: str, *, subject: str = "") -> None:
    """Attach a detached mount at `path` relative to `directory`, or on the descriptor itself when path is "".

    move_mount(2) with F_EMPTY_PATH. Symbolic links at the end of `path` are not followed.
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    if not path:
        flags |= _MOVE_MOUNT_T_EMPTY_PATH
    syscall("move_mount", _MOVE_MOUNT, fd, b"", directory, os.fsencode(path), flags, subject=subject or path)


def set_attributes(
    directory: int,
    path: str = "",
    *,
    add: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns: int = -1,
    recursive: bool = False,
) -> None:
    """mount_setattr(2) on the mount at `path`, or of the descriptor itself when path is "".

    `userns` idmaps the mount by that user namespace (adds MOUNT_ATTR_IDMAP): legal once, on a detached mount, by a
    process privileged over the file system's owner. EINVAL: the file system (or a merged overlay) has no idmap.
    """
    flags = AT_RECURSIVE if recursive else 0
    if not path:
        flags |= AT_EMPTY_PATH
    add = int(add)
    if userns >= 0:
        add |= 0x100000
    block = ctypes.create_string_buffer(_mount_attr.pack(add, int(clear), propagation, max(userns, 0)), 32)
    syscall("mount_setattr", _MOUNT_SETATTR, directory, os.fsencode(path), flags, block, 32, subject=path)
