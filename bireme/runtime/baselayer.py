"""The layer below every image: the places that a start mounts on.

An image seldom has /etc/hosts or /proc. Making them at start costs a copy-up of /etc in every container (0.3 ms) and
shows as changes of it; from the lowest layer they are simply there, and whatever the image has lies above.
"""

from __future__ import annotations

import os

_DIRECTORIES = ("dev", "dev/pts", "dev/shm", "etc", "proc", "sys")
_FILES = (".dockerenv", "dev/console", "etc/hosts", "etc/hostname", "etc/resolv.conf")
_LINKS = (("/proc/mounts", "etc/mtab"),)


def make_base_layer(directory: str) -> None:
    """Make the layer at `directory`, or what is missing of it; owned by root, whatever the umask."""
    os.makedirs(directory, exist_ok=True)
    os.chmod(directory, 0o755)
    for name in _DIRECTORIES:
        path = f"{directory}/{name}"
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o755)
    for name in _FILES:
        path = f"{directory}/{name}"
        if not os.path.lexists(path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
            os.chmod(path, 0o644)
    for target, name in _LINKS:
        path = f"{directory}/{name}"
        if not os.path.lexists(path):
            os.symlink(target, path)
