"""The process that fills a volume: `python -I -m bireme.storage.populate_worker REQUEST`, started by populate.py.

It merges the layers where nobody else sees the mount, opens the one directory to copy inside them with openat2, and
then jails itself in the volume with the six capabilities it needs to write files of any owner and kind.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from bireme.errors import Invalid
from bireme.linux import capabilities, mount, namespaces
from bireme.linux.libc import SyscallError
from bireme.linux.path import open_in_root
from bireme.linux.process import CloneFlags
from bireme.storage import jail
from bireme.storage.answering import Say, serve
from bireme.storage.tree import copy_contents

_CAPABILITIES = capabilities.mask_of(
    ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP")
)


def main() -> int:
    return serve(_work, "the image's content needs too much memory to copy")


def _work(request: dict[str, Any], progress: Say) -> dict[str, Any]:
    into, target = int(request["into"]), str(request["target"])
    source = _open(_merge([str(layer) for layer in request["layers"]]), target)
    if source < 0:
        return {"copied": False}
    jail.enter(into, int(request["parent"]), _CAPABILITIES)
    copy_contents(source, into)
    return {"copied": True}


def _merge(layers: list[str]) -> int:
    """The root of the layers as one read-only tree, mounted nowhere that anybody else can see."""
    namespaces.unshare(CloneFlags.CLONE_NEWNS)
    mount.make_private("/")
    trees = [mount.open_tree(mount.AT_FDCWD, layer) for layer in layers]
    floor = mount.new_filesystem("tmpfs", (("source", "merge"), ("size", "1m"), ("mode", "700")))
    mount.move_mount(floor, mount.AT_FDCWD, "/", subject="merge")
    os.fchdir(floor)
    for number, tree in enumerate(trees):
        os.mkdir(str(number), 0o755)
        mount.move_mount(tree, mount.AT_FDCWD, str(number))
    if len(trees) == 1:
        return os.open("0", os.O_PATH | os.O_DIRECTORY)
    os.mkdir("merged", 0o755)
    lower = ":".join(map(str, range(len(trees))))
    mount.mount("overlay", "merged", "overlay", mount.MountFlags.MS_RDONLY, f"lowerdir={lower}")
    return os.open("merged", os.O_PATH | os.O_DIRECTORY)


def _open(root: int, target: str) -> int:
    """The directory at `target` of the image, -1 when there is none."""
    try:
        return open_in_root(root, target, os.O_RDONLY | os.O_DIRECTORY)
    except SyscallError as error:
        if error.errno == errno.ENOENT:
            return -1
        if error.errno == errno.ENOTDIR:
            raise Invalid(f"cannot mount volume over existing file, file exists {target}", subject=target) from None
        raise


if __name__ == "__main__":
    sys.exit(main())
