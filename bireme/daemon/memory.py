"""A small file system in memory for the files that are written anew at each start of an instance.

Making and removing inodes on a disk is a tenth of what a short life costs the engine. They cannot lie in the run root
itself: root of an instance may write to its /etc/hosts without end, and whoever fills /run stops the whole machine. So
it is a tmpfs of its own, bounded; when it is full the disk is used (engine/etc.py). It stays mounted when the engine
ends before its instances.
"""

from __future__ import annotations

import contextlib
import logging
import os

from bireme.linux import mount, probe

log = logging.getLogger(__name__)
_SIZE = "64m"
"""Room for three files each of five thousand instances."""

_ATTRIBUTES = mount.MountAttr.MOUNT_ATTR_NOSUID | mount.MountAttr.MOUNT_ATTR_NODEV | mount.MountAttr.MOUNT_ATTR_NOEXEC


def open_memory(directory: str) -> None:
    """Mount it there unless it is mounted. Before the supervisor starts, which copies the mounts it finds."""
    os.makedirs(directory, 0o711, exist_ok=True)
    if os.path.ismount(directory):
        return
    try:
        _mount(directory)
    except OSError as error:
        log.warning("files of instances are kept on disk, which is slower: %s", error)


def _mount(directory: str) -> None:
    made = mount.new_filesystem("tmpfs", (("source", "bireme"), ("size", _SIZE), ("mode", "711")), int(_ATTRIBUTES))
    try:
        mount.move_mount(made, mount.AT_FDCWD, directory)
    finally:
        os.close(made)


def usable(directory: str, supervisor: int, *, idmapped: bool) -> bool:
    """Whether instances can get files from there: process `supervisor` has the same mount, and ids can be mapped."""
    try:
        theirs = os.stat(f"/proc/{supervisor}/root{directory}")
    except OSError:
        return False
    same = os.path.ismount(directory) and os.path.samestat(theirs, os.stat(directory))
    return same and not (idmapped and probe.idmapped_mounts(directory))


def close_memory(directory: str) -> None:
    """Unmount it, if it is mounted."""
    with contextlib.suppress(OSError):
        if os.path.ismount(directory):
            mount.umount(directory, mount.MNT_DETACH)
        os.rmdir(directory)
