"""How much an instance has written: the bytes of the files in its writable layer.

Counted as Docker counts: what files say their size is (a sparse file counts whole), directories and whiteouts nothing,
a file with several links once. The tree is hostile: links at any place, any number of entries, and it changes while it
is walked. So every directory is opened from the root's descriptor without following a link (openat2), two descriptors
are open at a time whatever the depth, and time and memory are bounded.
"""

from __future__ import annotations

import os
import stat
import time

from bireme.errors import Deadline
from bireme.linux.libc import SyscallError
from bireme.linux.path import Resolve, openat2
from bireme.storage.tree import open_directory

BUDGET_S = 10.0
_REMEMBERED = 1 << 19
"""Directories still to visit and linked files, together."""

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_RESOLVE = Resolve.RESOLVE_BENEATH | Resolve.RESOLVE_NO_SYMLINKS | Resolve.RESOLVE_NO_MAGICLINKS


def written_bytes(path: str, budget_s: float = BUDGET_S) -> int:
    """The bytes of all files below the directory `path`; blocks, call it from a thread.

    Deadline when it takes longer than `budget_s` or is too large to walk; OSError when `path` cannot be opened. What
    vanishes meanwhile, or lies deeper than a path can say (4 KiB), is not counted.
    """
    root = open_directory(path)
    try:
        walk = _Walk(path, time.monotonic() + budget_s)
        walk.directory(root, b"")
        while walk.waiting:
            walk.visit(root, walk.waiting.pop())
        return walk.total
    finally:
        os.close(root)


def occupied_bytes(path: str) -> int:
    """What a file takes on disk (holes take nothing); 0 when it is not there."""
    try:
        return os.stat(path, follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0


class _Walk:
    """One run of `written_bytes`."""

    def __init__(self, subject: str, deadline: float) -> None:
        self.total = 0
        self.waiting: list[bytes] = []
        self._linked: set[tuple[int, int]] = set()
        self._subject = subject
        self._deadline = deadline

    def visit(self, root: int, name: bytes) -> None:
        try:
            directory = openat2(root, name, _FLAGS, resolve=_RESOLVE)
        except SyscallError:
            return
        try:
            self.directory(directory, name + b"/")
        finally:
            os.close(directory)

    def directory(self, directory: int, prefix: bytes) -> None:
        self._check()
        with os.scandir(directory) as entries:
            for number, entry in enumerate(entries):
                if number & 0xFF == 0xFF:
                    self._check()
                try:
                    if entry.is_dir(follow_symlinks=False):
                        self.waiting.append(prefix + os.fsencode(entry.name))
                    else:
                        self._file(entry.stat(follow_symlinks=False))
                except OSError:
                    continue

    def _file(self, found: os.stat_result) -> None:
        if found.st_nlink > 1 and not stat.S_ISCHR(found.st_mode):
            identity = (found.st_dev, found.st_ino)
            if identity in self._linked:
                return
            self._linked.add(identity)
        self.total += found.st_size

    def _check(self) -> None:
        if time.monotonic() > self._deadline or len(self.waiting) + len(self._linked) > _REMEMBERED:
            raise Deadline("the writable layer is too large to be measured", subject=self._subject)
