"""A directory tree as a tar archive: names sorted, hard links, devices, extended attributes and times kept.

Sockets are left out, as tar does. Sparse files are written whole.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from bireme.errors import Invalid
from bireme.storage.tar import Entry, Kind
from bireme.storage.tarwrite import TarWriter
from bireme.storage.tree import open_directory

_CHUNK = 1 << 20
_DEPTH_MAX = 400
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFIFO: Kind.FIFO,
}


def write_tree(path: str, sink: Callable[[bytes], object], *, newest_ns: int | None = None) -> None:
    """Write everything below `path`, itself as "./"; times later than `newest_ns` become that."""
    writer = TarWriter(sink)
    root = open_directory(path)
    try:
        _Walk(writer, newest_ns).directory(root, b".", os.fstat(root), 0)
    finally:
        os.close(root)
    writer.finish()


class Members:
    """Adds single files to `writer`; hard links are kept among those of one object."""

    def __init__(self, writer: TarWriter) -> None:
        self._writer = writer
        self._links: dict[tuple[int, int], bytes] = {}

    def leaf(self, directory: int, name: bytes, member: bytes, found: os.stat_result) -> None:
        """What `found` says is at `name`; a directory without what is below it, a socket not at all."""
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return
        if kind is Kind.DIRECTORY:
            self._writer.add(self._entry(member + b"/", kind, found, {}))
            return
        if found.st_nlink > 1:
            identity = (found.st_dev, found.st_ino)
            if (first := self._links.get(identity)) is not None:
                self._writer.add(self._entry(member, Kind.LINK, found, {})._replace(target=first))
                return
        if kind is Kind.FILE:
            self._file(directory, name, member)
        else:
            target = os.readlink(name, dir_fd=directory) if kind is Kind.SYMLINK else b""
            self._writer.add(self._entry(member, kind, found, {})._replace(target=target))
        if found.st_nlink > 1:
            self._links[identity] = member

    def _file(self, directory: int, name: bytes, member: bytes) -> None:
        fd = os.open(name, _FILE, dir_fd=directory)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise FileNotFoundError(errno.ENOENT, "no regular file any more")
            entry = self._entry(member, Kind.FILE, found, xattrs_of(fd))._replace(size=found.st_size)
            self._writer.add(entry, _read_exactly(fd, found.st_size))
        finally:
            os.close(fd)

    def _entry(self, path: bytes, kind: Kind, found: os.stat_result, xattrs: dict[bytes, bytes]) -> Entry:
        """The member `path` with what stat(2) found; size and target are left empty."""
        device = (os.major(found.st_rdev), os.minor(found.st_rdev))
        return Entry(
            name=path,
            kind=kind,
            mode=stat.S_IMODE(found.st_mode),
            uid=found.st_uid,
            gid=found.st_gid,
            size=0,
            mtime_ns=found.st_mtime_ns,
            target=b"",
            device=device if kind in (Kind.CHARACTER, Kind.BLOCK) else (0, 0),
            xattrs=xattrs,
            extents=None,
        )


class _Walk(Members):
    def __init__(self, writer: TarWriter, newest_ns: int | None) -> None:
        super().__init__(writer)
        self._newest_ns = newest_ns

    def directory(self, directory: int, path: bytes, found: os.stat_result, depth: int) -> None:
        if depth > _DEPTH_MAX:
            raise Invalid("tree is too deep for an archive", subject=os.fsdecode(path))
        self._writer.add(self._entry(path + b"/", Kind.DIRECTORY, found, xattrs_of(directory)))
        for name in sorted(os.fsencode(name) for name in os.listdir(directory)):
            inner = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(inner.st_mode):
                fd = open_directory(name, directory)
                try:
                    self.directory(fd, path + b"/" + name, inner, depth + 1)
                finally:
                    os.close(fd)
            else:
                self.leaf(directory, name, path + b"/" + name, inner)

    def _entry(self, path: bytes, kind: Kind, found: os.stat_result, xattrs: dict[bytes, bytes]) -> Entry:
        entry = super()._entry(path, kind, found, xattrs)
        return entry if self._newest_ns is None else entry._replace(mtime_ns=min(entry.mtime_ns, self._newest_ns))


def _read_exactly(fd: int, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes: a file that shrinks meanwhile is padded, one that grows is cut."""
    while size:
        chunk = os.read(fd, min(size, _CHUNK)) or bytes(min(size, _CHUNK))
        size -= len(chunk)
        yield chunk


def xattrs_of(fd: int) -> dict[bytes, bytes]:
    """The extended attributes that archives keep: security.capability and user.*."""
    try:
        names = os.listxattr(fd)
    except OSError:
        return {}
    return {
        os.fsencode(name): os.getxattr(fd, name)
        for name in sorted(names)
        if name == "security.capability" or name.startswith("user.")
    }
