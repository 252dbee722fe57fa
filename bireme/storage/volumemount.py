"""Volumes that are file systems of their own: the local driver's options type, o and device, as mount(8) has them.

Such a volume is mounted at its directory while instances use it. An instance gets a detached copy of that mount as a
descriptor: the supervisor's mount namespace need not see ours.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping

from bireme.errors import BiremeError, NotFound, Unavailable, Unsupported
from bireme.linux import mount, procfs
from bireme.linux.libc import SyscallError
from bireme.linux.mount import MountFlags
from bireme.linux.path import Resolve, openat2

_FLAGS: Mapping[str, tuple[int, int]] = {
    "defaults": (0, 0),
    "ro": (MountFlags.MS_RDONLY, 0),
    "rw": (0, MountFlags.MS_RDONLY),
    "suid": (0, MountFlags.MS_NOSUID),
    "nosuid": (MountFlags.MS_NOSUID, 0),
    "dev": (0, MountFlags.MS_NODEV),
    "nodev": (MountFlags.MS_NODEV, 0),
    "exec": (0, MountFlags.MS_NOEXEC),
    "noexec": (MountFlags.MS_NOEXEC, 0),
    "sync": (MountFlags.MS_SYNCHRONOUS, 0),
    "async": (0, MountFlags.MS_SYNCHRONOUS),
    "dirsync": (MountFlags.MS_DIRSYNC, 0),
    "atime": (0, MountFlags.MS_NOATIME),
    "noatime": (MountFlags.MS_NOATIME, 0),
    "diratime": (0, MountFlags.MS_NODIRATIME),
    "nodiratime": (MountFlags.MS_NODIRATIME, 0),
    "relatime": (MountFlags.MS_RELATIME, 0),
    "norelatime": (0, MountFlags.MS_RELATIME),
    "strictatime": (MountFlags.MS_STRICTATIME, 0),
    "nostrictatime": (0, MountFlags.MS_STRICTATIME),
    "bind": (MountFlags.MS_BIND, 0),
    "rbind": (MountFlags.MS_BIND | MountFlags.MS_REC, 0),
}
_BY_NETWORK = frozenset({"nfs", "nfs4", "cifs"})
_BENEATH = Resolve.RESOLVE_BENEATH | Resolve.RESOLVE_NO_MAGICLINKS


def parse_mount_options(text: str) -> tuple[int, str]:
    """MS_* of the words that are flags, and the rest for the file system."""
    flags, data = 0, []
    for word in filter(None, text.split(",")):
        if word in _FLAGS:
            on, off = _FLAGS[word]
            flags = flags & ~off | on
        else:
            data.append(word)
    return int(flags), ",".join(data)


def mount_volume(options: Mapping[str, str], target: str) -> None:
    """Mount what the options name at `target`; Unsupported for a file system this kernel does not have."""
    kind, device = options.get("type", ""), options.get("device", "")
    flags, data = parse_mount_options(options.get("o", ""))
    wrong = f"error while mounting volume '{target}': failed to mount local volume: "
    if kind in _BY_NETWORK:
        data = _resolved(data, wrong)
    try:
        mount.mount(device, target, kind, flags, data)
        more = flags & ~(MountFlags.MS_BIND | MountFlags.MS_REC)
        if flags & MountFlags.MS_BIND and more:
            mount.mount(None, target, None, MountFlags.MS_REMOUNT | MountFlags.MS_BIND | more)
    except SyscallError as error:
        if flags & MountFlags.MS_BIND and is_mounted(target):
            unmount_volume(target)
        raise _refused(error, f"{wrong}mount {device}:{target}", kind, flags, data) from error


def _refused(error: SyscallError, what: str, kind: str, flags: int, data: str) -> BiremeError:
    shown = what + (f", flags: {flags:#x}" if flags else "") + (f", data: {data}" if data else "")
    message = f"{shown}: {os.strerror(error.errno or 0).lower()}"
    if error.errno == errno.ENODEV:
        return Unsupported(message, subject=kind, hint=f"this kernel has no file system {kind}")
    return Unavailable(message, subject=kind)


def _resolved(data: str, wrong: str) -> str:
    """The kernel takes an address in addr=, people write a name there."""
    words = data.split(",")
    for index, word in enumerate(words):
        if word.startswith("addr="):
            host = word.removeprefix("addr=")
            try:
                found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError as error:
                raise Unavailable(f"{wrong}error resolving passed in network volume address: {error}") from error
            words[index] = f"addr={found[0][4][0]}"
    return ",".join(words)


def is_mounted(target: str) -> bool:
    return any(entry.path == target for entry in procfs.read_mountinfo())


def unmount_volume(target: str) -> None:
    """Take the mount out of sight; whoever still has a copy of it keeps that."""
    try:
        mount.umount(target, mount.MNT_DETACH)
    except SyscallError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def open_beneath(source: str, subpath: str, flags: int = os.O_PATH) -> int:
    """`subpath` of the volume at `source`, never outside it whatever links a container made there."""
    top = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return openat2(top, subpath or ".", flags, resolve=_BENEATH)
    except SyscallError as error:
        why = "it leads out of the volume" if error.errno == errno.EXDEV else os.strerror(error.errno or 0).lower()
        raise NotFound(f"cannot access path {source}/{subpath}: {why}", subject=subpath) from error
    finally:
        os.close(top)


def open_volume(source: str, subpath: str) -> int:
    """A detached mount of (a part of) the volume at `source`."""
    at = open_beneath(source, subpath)
    try:
        return mount.open_tree(at, "", recursive=True)
    finally:
        os.close(at)
