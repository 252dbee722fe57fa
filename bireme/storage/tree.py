"""Removing, measuring and copying directory trees that an instance or an image made.

Such a tree is hostile: links at any place, thousands of levels, names of any bytes. So nothing here uses a path of more
than one step below a descriptor, no link is followed, and depth is bounded: past `_DEPTH` levels a directory that is
being removed is moved up and starts there anew.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from bireme.errors import Unsupported

_DEPTH = 32
_WALK_DEPTH = 400
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 30


class Usage(NamedTuple):
    """What a tree occupies: bytes on disk and inodes, a file with several links counted once."""

    size_bytes: int
    inodes: int


def open_directory(path: str | bytes, directory: int | None = None) -> int:
    """A readable descriptor of a directory, never through a link as the last step."""
    return os.open(path, _OPEN, dir_fd=directory)


def remove_entry(directory: int, name: str | bytes, spill: int) -> None:
    """Remove `name` (of any kind, with all below it) from an open directory; absent is fine.

    `spill` is an open directory on the same file system: what lies too deep is moved there under a random name, and
    removed from there.
    """
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        spilled: list[str] = []
        _remove_directory(directory, name, _Spill(spill, spilled), 0)
        while spilled:
            _remove_directory(spill, spilled.pop(), _Spill(spill, spilled), 0)


class _Spill(NamedTuple):
    directory: int
    names: list[str]


def _remove_directory(directory: int, name: str | bytes, spill: _Spill, depth: int) -> None:
    if _rmdir(directory, name):
        return
    if depth == _DEPTH:
        fresh = os.urandom(12).hex()
        os.rename(name, fresh, src_dir_fd=directory, dst_dir_fd=spill.directory)
        spill.names.append(fresh)
        return
    inner = open_directory(name, directory)
    try:
        _clear(inner, spill, depth + 1)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=directory)


def _rmdir(directory: int, name: str | bytes) -> bool:
    """Whether it is gone; False when it has entries."""
    try:
        os.rmdir(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _clear(directory: int, spill: _Spill, depth: int) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                _remove_directory(directory, name, spill, depth)
            else:
                os.unlink(name, dir_fd=directory)


def empty_directory(directory: int) -> list[str]:
    """Remove everything in an open directory; what could not be removed stays and is named in the answer."""
    failed: dict[str, None] = {}
    while names := [name for name in os.listdir(directory) if name not in failed]:
        for name in names:
            try:
                remove_entry(directory, os.fsencode(name), directory)
            except OSError:
                failed[name] = None
    return list(failed)


def measure(path: str) -> Usage:
    """Walk a tree and add it up; what vanishes meanwhile, or lies more than 400 levels deep, is not counted."""
    counter = _Count()
    fd = open_directory(path)
    try:
        counter.directory(fd, 0)
    finally:
        os.close(fd)
    return Usage(counter.size, counter.inodes)


class _Count:
    """One run of measure."""

    def __init__(self) -> None:
        self.size = self.inodes = 0
        self._linked: set[int] = set()

    def directory(self, directory: int, depth: int) -> None:
        self._add(os.fstat(directory))
        for name in os.listdir(directory):
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    self._leaf(found)
                elif depth < _WALK_DEPTH:
                    inner = open_directory(name, directory)
                    try:
                        self.directory(inner, depth + 1)
                    finally:
                        os.close(inner)
            except FileNotFoundError:
                continue

    def _leaf(self, found: os.stat_result) -> None:
        if found.st_nlink > 1:
            if found.st_ino in self._linked:
                return
            self._linked.add(found.st_ino)
        self._add(found)

    def _add(self, found: os.stat_result) -> None:
        self.size += found.st_blocks * 512
        self.inodes += 1


def copy_tree(source: str, target: str) -> None:
    """Copy the contents and attributes of directory `source` into the existing directory `target`.

    Owners, modes, times, extended attributes, hard links within the tree and device nodes are kept; file data is
    shared where the file system can (reflinks).
    """
    here, there = open_directory(source), open_directory(target)
    try:
        copy_contents(here, there)
    finally:
        os.close(here)
        os.close(there)


def copy_contents(source: int, target: int) -> None:
    """`copy_tree` from one open directory into another."""
    _Copy(target).directory(source, target, 0)


class _Copy:
    """One run of copy_tree: remembers the first name of every file that has several."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._links: dict[tuple[int, int], bytes] = {}
        self._path: list[bytes] = []

    def directory(self, source: int, target: int, depth: int) -> None:
        if depth > _WALK_DEPTH:
            raise Unsupported("tree is too deep to copy")
        for entry in os.listdir(source):
            name = os.fsencode(entry)
            found = os.stat(name, dir_fd=source, follow_symlinks=False)
            self._path.append(name)
            if stat.S_ISDIR(found.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                inner = open_directory(name, source)
                outer = open_directory(name, target)
                try:
                    self.directory(inner, outer, depth + 1)
                finally:
                    os.close(inner)
                    os.close(outer)
            else:
                self._entry(name, found, source, target)
            self._path.pop()
        _copy_attributes(source, target, os.fstat(source))

    def _entry(self, name: bytes, found: os.stat_result, source: int, target: int) -> None:
        identity = (found.st_dev, found.st_ino)
        if found.st_nlink > 1:
            if (first := self._links.get(identity)) is not None:
                os.link(first, name, src_dir_fd=self._root, dst_dir_fd=target, follow_symlinks=False)
                return
            self._links[identity] = b"/".join(self._path)
        if stat.S_ISREG(found.st_mode):
            _copy_file(name, found, source, target)
            return
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
        os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_file(name: bytes, found: os.stat_result, source: int, target: int) -> None:
    here = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=source)
    try:
        there = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            copy_data(here, there, found.st_size)
            _copy_attributes(here, there, found)
        finally:
            os.close(there)
    finally:
        os.close(here)


def copy_data(here: int, there: int, size: int) -> None:
    """Make the open empty file `there` a copy of `size` bytes of `here`, extent by extent: holes stay holes."""
    os.ftruncate(there, size)
    at = 0
    while at < size:
        try:
            start = os.lseek(here, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(here, start, os.SEEK_HOLE)
        while start < at:
            start += _copy_range(here, there, start, min(at - start, _CHUNK)) or at - start


def _copy_range(here: int, there: int, offset: int, count: int) -> int:
    try:
        return os.copy_file_range(here, there, count, offset, offset)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    return os.pwrite(there, os.pread(here, min(count, 1 << 20), offset), offset)


def _copy_attributes(here: int, there: int, found: os.stat_result) -> None:
    os.chown(there, found.st_uid, found.st_gid)
    for name in os.listxattr(here):
        if not name.startswith("trusted.overlay."):
            os.setxattr(there, name, os.getxattr(here, name))
    os.chmod(there, stat.S_IMODE(found.st_mode))
    os.utime(there, ns=(found.st_atime_ns, found.st_mtime_ns))
