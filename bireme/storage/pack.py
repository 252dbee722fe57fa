"""Files of an instance as a tar archive, while it may be changing them.

Nothing is opened through a link, a walk stays out of mounts it was not told of (view.py), and what vanishes or becomes
something else between being seen and being opened is left out, as tar does. Sockets are left out too.
"""

from __future__ import annotations

import errno
import os
import stat

from bireme.errors import Invalid
from bireme.storage.tar import Entry, Kind
from bireme.storage.tarwalk import Members, xattrs_of
from bireme.storage.tarwrite import TarWriter
from bireme.storage.view import Found, View

DEPTH_MAX = 800
"""Levels of directories; each holds a descriptor open."""

VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE, errno.ENODEV})


class Packer(Members):
    """Adds members to `writer`, directories with all below them."""

    def __init__(self, writer: TarWriter, view: View) -> None:
        super().__init__(writer)
        self._view = view

    def found(self, found: Found, directory: int, name: bytes) -> None:
        """What a look-up found, as the member `name`; `directory` is open when it is one."""
        if directory >= 0:
            self.directory(directory, name, found.place)
        else:
            self.leaf(found.parent, found.name, name, found.stat)

    def directory(self, directory: int, name: bytes, place: bytes) -> None:
        """An open directory as the member `name`, and everything below it."""
        self._writer.add(self._entry(name + b"/", Kind.DIRECTORY, os.fstat(directory), xattrs_of(directory)))
        self.contents(directory, name + b"/", place, 1)

    def contents(self, directory: int, prefix: bytes, place: bytes, depth: int) -> None:
        """Everything in an open directory, names after `prefix`."""
        if depth > DEPTH_MAX:
            raise Invalid("tree is too deep for an archive", subject=os.fsdecode(place[:200]))
        place = place.rstrip(b"/") + b"/"
        for name in sorted(os.fsencode(name) for name in os.listdir(directory)):
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    self.leaf(directory, name, prefix + name, found)
                    continue
                fd = self._view.enter(directory, name, place + name)
            except OSError as error:
                if error.errno not in VANISHED:
                    raise
                continue
            try:
                self._inner(fd, prefix + name, place + name, found, depth)
            finally:
                if fd >= 0:
                    os.close(fd)

    def _inner(self, fd: int, name: bytes, place: bytes, found: os.stat_result, depth: int) -> None:
        if fd < 0:
            self._writer.add(self._entry(name + b"/", Kind.DIRECTORY, found, {}))
            return
        self._writer.add(self._entry(name + b"/", Kind.DIRECTORY, os.fstat(fd), xattrs_of(fd)))
        self.contents(fd, name + b"/", place, depth + 1)

    def _entry(self, path: bytes, kind: Kind, found: os.stat_result, xattrs: dict[bytes, bytes]) -> Entry:
        """With the time in whole seconds, as in dockerd's archives."""
        entry = super()._entry(path, kind, found, xattrs)
        return entry._replace(mtime_ns=entry.mtime_ns // 10**9 * 10**9)
