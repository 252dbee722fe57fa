"""Unpacking an archive that somebody copies into an instance, while the instance may be changing what is there.

Members go where dockerd puts them: names are relative to the extraction point whatever they begin with, ".." may not
lead out of it, neither may the target of a hard link or a symbolic link. Parents are looked up inside the root of the
instance, links followed there; the last step is only used relative to the descriptor of its parent, with calls that
follow no link. Whiteouts are ordinary names here.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat

from bireme.errors import BiremeError, Denied, Invalid
from bireme.linux.path import open_in_root
from bireme.storage.layer import LayerWriter, make_node, shown
from bireme.storage.tar import Entry, Kind, TarReader
from bireme.storage.view import View

READ_ONLY_ROOT = "container rootfs is marked read-only"
READ_ONLY_MOUNT = "mounted volume is marked read-only"


class Extractor(LayerWriter):
    """Writes an archive below the open directory `target` of a view.

    `owner` replaces the ids of the archive; `keep_kinds` refuses to replace a directory by something else or the other
    way round. `close` ends it. Denied when the place is read-only.
    """

    what = "the archive"

    def __init__(self, view: View, target: int, owner: tuple[int, int] | None, *, keep_kinds: bool) -> None:
        super().__init__(target, "overlay")
        self._view = view
        self._place = view.place_of(target).rstrip(b"/")
        self._owner = owner
        self._keep_kinds = keep_kinds

    def _write(self, entry: Entry, archive: TarReader) -> None:
        self._close_stale()
        path = inside(entry.name)
        if self._owner is not None:
            entry = entry._replace(uid=self._owner[0], gid=self._owner[1])
        if not path:
            if entry.kind is not Kind.DIRECTORY:
                raise Invalid("cannot overwrite the extraction point", subject=shown(entry.name))
            return
        above, _, name = path.rpartition(b"/")
        parent = self._parent(above)
        self._check_kinds(entry, name, parent)
        self._member(entry, archive, name, parent, path)

    def _check_kinds(self, entry: Entry, name: bytes, parent: int) -> None:
        if not self._keep_kinds:
            return
        try:
            there = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return
        comes = entry.kind is Kind.DIRECTORY
        if there == comes:
            return
        words = "directory {} with non-directory {}" if there else "non-directory {} with directory {}"
        path = shown(self._place + b"/" + inside(entry.name))
        message = words.format(f'"{path}"', f'"{shown(self._place) or "/"}"')
        raise Invalid(f"cannot overwrite {message}", subject=path)

    def _reach(self, path: bytes, flags: int) -> int:
        return open_in_root(self._view.root, os.fsdecode(self._place + b"/" + path), flags | os.O_DIRECTORY)

    def _is_whiteout(self, found: os.stat_result) -> bool:
        return False

    def _check_symlink(self, path: bytes, target: bytes) -> None:
        check_symlink(path, target)

    def _node(self, entry: Entry, name: bytes, parent: int) -> None:
        """Made with its mode: changing it afterwards by name would follow a link that was put there meanwhile."""
        try:
            make_node(entry, name, parent, entry.mode)
        except PermissionError as error:
            raise Invalid(
                f"cannot make {entry.kind.value} {shown(entry.name)}: operation not permitted",
                hint="a running container with a user namespace of its own gets no device nodes: stop it first",
            ) from error

    def _node_mode(self, entry: Entry, name: bytes, parent: int) -> None:
        """Made with it."""

    def _link_target(self, target: bytes) -> bytes:
        return inside(target, what="hard link")

    def _translate(self, error: OSError, name: bytes) -> BiremeError:
        if error.errno == errno.EROFS:
            return Denied(READ_ONLY_ROOT, subject=shown(name))
        return super()._translate(error, name)


def inside(name: bytes, what: str = "path") -> bytes:
    """A member's name relative to the extraction point, cleaned; Invalid when it leads out."""
    clean = posixpath.normpath(name.lstrip(b"/") or b".")
    if clean == b".." or clean.startswith(b"../"):
        raise Invalid(f'{what} leads out of the archive: "{shown(name)}" is outside of the extraction point')
    if any(len(step) > 255 for step in clean.split(b"/")):
        raise Invalid("name too long in archive")
    return b"" if clean == b"." else clean


def check_symlink(path: bytes, target: bytes) -> None:
    """Invalid for a link without a target and one whose target, read as a path below its directory, leads out."""
    if not target:
        raise Invalid("symbolic link without a target")
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(path), target.lstrip(b"/")))
    if joined == b".." or joined.startswith(b"../"):
        raise Invalid(f'invalid symlink "{shown(path)}" -> "{shown(target)}"')


def is_read_only(directory: int) -> bool:
    """Whether the mount of an open directory refuses writes."""
    return bool(os.fstatvfs(directory).f_flag & os.ST_RDONLY)
