"""Applying a layer: the entries of a tar archive become files below one directory.

The archive decides names, kinds and order; it must not decide where we write. So a name is split into checked steps, a
parent directory is opened with openat2(RESOLVE_BENEATH) below the root (a link that leaves it, an absolute one
included, is an error; one that stays inside is followed as tar does), and the last step is only ever used relative to
that descriptor with calls that follow no link. An entry that replaces a directory drops every cached descriptor, so a
link that takes a directory's place mid-way is seen.

Deletions come as entries named `.wh.NAME`, and `.wh..wh..opq` for "nothing from below in this directory" (OCI
image-spec layer.md). They speak about the layers below, never about what this layer brings. For overlayfs the first is
a character device 0:0; an opaque directory needs an extended attribute that takes more rights than this code should
have: those directories are collected in `opaque` for the caller to mark. Likewise `implied`: directories that no entry
described, whose attributes should come from the layers below. Style "apply" deletes at once.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from typing import Literal

from bireme.errors import BiremeError, Invalid, Unavailable
from bireme.linux.libc import SyscallError
from bireme.linux.path import Resolve, openat2
from bireme.storage.tar import Entry, Kind, TarReader
from bireme.storage.tree import open_directory, remove_entry

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."

_OPEN_DIRECTORIES_MAX = 64
_NAME_MAX = 255
_TRIES = 1000
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = Resolve.RESOLVE_BENEATH | Resolve.RESOLVE_NO_MAGICLINKS

_ENVIRONMENT_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENFILE, errno.EMFILE, errno.ENOMEM})
_KEPT_XATTRS = (b"user.", b"security.capability", b"system.posix_acl_")
_FORBIDDEN_XATTRS = (b"trusted.", b"user.overlay.")
_NODES = {Kind.CHARACTER: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}


class LayerWriter:
    """Writes entries below `root`, an open directory that nobody else writes to. `close` ends it.

    Invalid for what the archive must not ask for, Unavailable when the disk refuses.
    """

    what = "layer"
    """Of what messages speak."""

    def __init__(self, root: int, style: Literal["overlay", "apply"]) -> None:
        self._root = root
        self._overlay = style == "overlay"
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._stale: list[int] = []
        self._times: dict[bytes, int] = {}
        self._made: set[bytes] = set()
        self.opaque: set[bytes] = set()
        self.implied: set[bytes] = set()
        self.size_bytes = 0

    def apply(self, archive: TarReader) -> None:
        """Write every entry of an archive, then the times of its directories."""
        entry: Entry | None = None
        try:
            for entry in archive:
                self._write(entry, archive)
            entry = None
            self._finish_times()
        except BiremeError as error:
            if entry is not None and not error.subject:
                error.subject = shown(entry.name)
            raise
        except OSError as error:
            raise self._translate(error, entry.name if entry else b"/") from error

    def close(self) -> None:
        """Close the descriptors that are still cached."""
        self._stale.extend(self._open.values())
        self._open.clear()
        self._close_stale()

    def _close_stale(self) -> None:
        while self._stale:
            os.close(self._stale.pop())

    def _write(self, entry: Entry, archive: TarReader) -> None:
        self._close_stale()
        steps = split(entry.name)
        if not steps:
            if entry.kind is not Kind.DIRECTORY:
                raise Invalid("the root of an archive must be a directory")
            self._attributes(self._root, entry)
            self._times[b""] = entry.mtime_ns
            return
        name = steps[-1]
        parent = self._parent(b"/".join(steps[:-1]))
        path = b"/".join(steps)
        if name.startswith(WHITEOUT):
            self._whiteout(name, parent, path)
            return
        self._member(entry, archive, name, parent, path)
        if not self._overlay:
            self._made.add(path)

    def _member(self, entry: Entry, archive: TarReader, name: bytes, parent: int, path: bytes) -> None:
        if entry.kind is Kind.FILE:
            self._file(entry, archive, name, parent, path)
        elif entry.kind is Kind.DIRECTORY:
            self._directory(entry, name, parent, path)
        else:
            self._special(entry, name, parent, path)

    def _parent(self, path: bytes) -> int:
        """A descriptor of the directory at `path`, made with its own parents where absent."""
        if not path:
            return self._root
        fd = self._open.get(path)
        if fd is not None:
            self._open.move_to_end(path)
            return fd
        try:
            fd = self._reach(path, os.O_RDONLY)
        except SyscallError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            fd = self._make_parent(path)
        self._open[path] = fd
        if len(self._open) > _OPEN_DIRECTORIES_MAX:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def _reach(self, path: bytes, flags: int) -> int:
        """A descriptor of the directory at `path`."""
        return open_beneath(self._root, path, flags)

    def _make_parent(self, path: bytes) -> int:
        above, _, name = path.rpartition(b"/")
        parent = self._parent(above)
        fresh = True
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            fresh = False
            if not self._is_whiteout(os.stat(name, dir_fd=parent, follow_symlinks=False)):
                raise Invalid("a parent of an entry is no directory") from None
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
            self.opaque.add(path)
        if fresh:
            self.implied.add(path)
        if not self._overlay:
            self._made.add(path)
        return open_directory(name, parent)

    def _is_whiteout(self, found: os.stat_result) -> bool:
        return self._overlay and stat.S_ISCHR(found.st_mode) and found.st_rdev == 0

    def _whiteout(self, name: bytes, parent: int, path: bytes) -> None:
        directory = path.rpartition(b"/")[0]
        if name == OPAQUE:
            if self._overlay:
                self.opaque.add(directory)
            else:
                self._clear_below(parent, directory)
            return
        if name.startswith(_AUFS):
            return
        target = name[len(WHITEOUT) :]
        if target in (b"", b".", b".."):
            raise Invalid("invalid whiteout name")
        path = directory + b"/" + target if directory else target
        if not self._overlay:
            self._delete_below(target, parent, path)
            return
        try:
            os.mknod(target, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(target, dir_fd=parent, follow_symlinks=False).st_mode):
                self.opaque.add(path)

    def _delete_below(self, name: bytes, parent: int, path: bytes) -> None:
        """Style "apply": what this layer made stays, a directory of it loses what came from below."""
        if path not in self._made:
            self._replace(name, parent, path)
        else:
            try:
                fd = open_directory(name, parent)
            except OSError:
                return
            try:
                self._clear_below(fd, path)
            finally:
                os.close(fd)

    def _clear_below(self, directory: int, path: bytes) -> None:
        for text in os.listdir(directory):
            name = os.fsencode(text)
            self._delete_below(name, directory, path + b"/" + name if path else name)

    def _replace(self, name: bytes, parent: int, path: bytes) -> bool:
        """Remove what is at `name`; whether it was a whiteout of this layer."""
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(found.st_mode):
            self._forget(path)
        remove_entry(parent, name, self._root)
        return self._is_whiteout(found)

    def _forget(self, path: bytes) -> None:
        """A directory goes away: nothing known of it or of what was below holds any more.

        Descriptors stay open until the next entry, this one may be using them.
        """
        self._stale.extend(self._open.values())
        self._open.clear()
        inside = path + b"/"
        for known in (self.opaque, self.implied, self._made):
            known.difference_update([p for p in known if p == path or p.startswith(inside)])
        for known_path in [p for p in self._times if p == path or p.startswith(inside)]:
            del self._times[known_path]

    def _file(self, entry: Entry, archive: TarReader, name: bytes, parent: int, path: bytes) -> None:
        mode = entry.mode & 0o777
        try:
            fd = os.open(name, _CREATE, mode, dir_fd=parent)
        except FileExistsError:
            self._replace(name, parent, path)
            fd = os.open(name, _CREATE, mode, dir_fd=parent)
        try:
            if entry.size:
                self._data(fd, entry, archive)
            if entry.mode != mode or entry.uid or entry.gid or entry.xattrs:
                self._attributes(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _data(self, fd: int, entry: Entry, archive: TarReader) -> None:
        if entry.extents is None:
            for view in archive.data():
                _write_all(fd, view)
            self.size_bytes += entry.size
            return
        os.ftruncate(fd, entry.size)
        data = archive.data()
        view = memoryview(b"")
        for offset, length in entry.extents:
            os.lseek(fd, offset, os.SEEK_SET)
            self.size_bytes += length
            while length:
                if not view:
                    view = next(data)
                _write_all(fd, view[:length])
                length, view = length - len(view[:length]), view[length:]

    def _directory(self, entry: Entry, name: bytes, parent: int, path: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                if self._replace(name, parent, path):
                    self.opaque.add(path)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = open_directory(name, parent)
        try:
            self._attributes(fd, entry)
        finally:
            os.close(fd)
        self.implied.discard(path)
        self._times[path] = entry.mtime_ns

    def _special(self, entry: Entry, name: bytes, parent: int, path: bytes) -> None:
        if entry.kind is Kind.SYMLINK:
            self._check_symlink(path, entry.target)
        self._replace(name, parent, path)
        if entry.kind is Kind.LINK:
            self._link(entry, name, parent)
            return
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, name, dir_fd=parent)
        else:
            self._node(entry, name, parent)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:
            self._node_mode(entry, name, parent)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _check_symlink(self, path: bytes, target: bytes) -> None:
        check_link(path, target)

    def _node(self, entry: Entry, name: bytes, parent: int) -> None:
        make_node(entry, name, parent, entry.mode & 0o777)

    def _node_mode(self, entry: Entry, name: bytes, parent: int) -> None:
        """After the owner, which takes set-id bits away."""
        os.chmod(name, entry.mode, dir_fd=parent)

    def _link(self, entry: Entry, name: bytes, parent: int) -> None:
        above, _, last = self._link_target(entry.target).rpartition(b"/")
        if not last:
            raise Invalid("invalid hard link")
        try:
            source = self._reach(above, os.O_PATH)
            try:
                os.link(last, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(source)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EPERM, errno.EXDEV, errno.ENOTDIR):
                raise Invalid(f"invalid hard link to {shown(entry.target)}") from error
            raise

    def _link_target(self, target: bytes) -> bytes:
        """The path that a hard link names, checked."""
        return b"/".join(split(target.lstrip(b"/")))

    def _attributes(self, fd: int, entry: Entry) -> None:
        """Owner first (it clears the rest), then extended attributes, then the mode."""
        os.chown(fd, entry.uid, entry.gid)
        for name, value in entry.xattrs.items():
            _set_xattr(fd, name, value)
        os.chmod(fd, entry.mode)

    def _finish_times(self) -> None:
        for path, mtime_ns in self._times.items():
            try:
                fd = self._reach(path, os.O_RDONLY | os.O_NOFOLLOW)
            except SyscallError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue
                raise
            try:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)

    def _translate(self, error: OSError, name: bytes) -> BiremeError:
        """What the kernel refused for a member."""
        subject = shown(name)
        if error.errno == errno.EXDEV:
            return Invalid(f"a link on the path of {subject} leads out of the root", subject=subject)
        if error.errno in _ENVIRONMENT_ERRORS:
            return Unavailable(f"cannot write {self.what}: {error.strerror}", subject=subject)
        return Invalid(f"cannot unpack {subject}: {error.strerror}", subject=subject)


def make_node(entry: Entry, name: bytes, parent: int, mode: int) -> None:
    """A device or pipe as an archive describes it, with `mode`."""
    os.mknod(name, _NODES[entry.kind] | mode, os.makedev(*entry.device), dir_fd=parent)


def shown(name: bytes) -> str:
    """Bytes of an archive as text that any message may hold: bounded, and valid whatever they are."""
    return name[:200].decode("utf-8", "backslashreplace")


def split(name: bytes) -> list[bytes]:
    """The steps of a member's name; Invalid when it is absolute or climbs."""
    if name.startswith(b"/"):
        raise Invalid("absolute path in archive")
    steps = [step for step in name.split(b"/") if step and step != b"."]
    for step in steps:
        if step == b"..":
            raise Invalid('".." in a path of the archive')
        if len(step) > _NAME_MAX:
            raise Invalid("name too long in archive")
    return steps


def check_link(path: bytes, target: bytes) -> None:
    """Invalid for a symbolic link that is empty or climbs above the root; absolute ones stay inside at run time."""
    if not target:
        raise Invalid("symbolic link without a target")
    if target.startswith(b"/"):
        return
    depth = path.count(b"/")
    for step in target.split(b"/"):
        depth += -1 if step == b".." else bool(step and step != b".")
        if depth < 0:
            raise Invalid(f"symbolic link leads out of the root: {shown(target)}")


def _set_xattr(fd: int, name: bytes, value: bytes) -> None:
    if name.startswith(_FORBIDDEN_XATTRS):
        raise Invalid(f"extended attribute {shown(name)} is not allowed in a layer")
    if not name.startswith(_KEPT_XATTRS) or b"\0" in name:
        return
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP and not (error.errno == errno.EPERM and name.startswith(b"user.")):
            raise


def _write_all(fd: int, view: memoryview) -> None:
    while view:
        view = view[os.write(fd, view) :]


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """A directory at `path` without ever leaving `root`; SyscallError EXDEV when a link would.

    The kernel answers EAGAIN when any rename on the machine raced with a `..` of a link: it is tried again.
    """
    for attempt in range(_TRIES):
        try:
            return openat2(root, path or b".", flags | os.O_DIRECTORY, resolve=_BENEATH)
        except SyscallError as error:
            if error.errno != errno.EAGAIN or attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")
