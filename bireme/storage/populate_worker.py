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
from bireme.linux.libc import SyscallError
from bireme.linux.path import open_in_root
from bireme.runtime.outside import make_plain_root
from bireme.storage import jail
from bireme.storage.answering import Say, serve
from bireme.storage.tree import copy_contents


def main() -> int:
    return serve(_work, "the image's content needs too much memory to copy")


def _work(request: dict[str, Any], progress: Say) -> dict[str, Any]:
    into, target = int(request["into"]), str(request["target"])
    source = _open(make_plain_root({"lower": [str(layer) for layer in request["layers"]]}), target)
    if source < 0:
        return {"copied": False}
    jail.enter(into, int(request["parent"]), jail.WRITER)
    copy_contents(source, into)
    return {"copied": True}


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
