"""Snapshots as directories: the layout that the overlay and the native snapshotter share.

    ROOT/active/KEY/        fs, work (overlay), parent -> NAME
    ROOT/committed/NAME/    fs, parent -> NAME
    ROOT/removed/RANDOM     being deleted

`parent` is a dangling symbolic link: one call makes it, one reads it. `fs` is made last, so an active directory without
it is an interrupted prepare and counts as absent. Every step from one place to another is one rename, so a process that
dies anywhere leaves either state; `removed` is emptied by `sweep`. ":" in a name is "=" on disk, since overlayfs
separates layers by it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable

from bireme.errors import Conflict, NotFound
from bireme.storage.durable import sync_filesystem
from bireme.storage.snapshot import SnapshotInfo, check_word
from bireme.storage.tree import empty_directory, open_directory, remove_entry

_ACTIVE, _COMMITTED, _REMOVED = "active", "committed", "removed"
_MODE = 0o755

Fill = Callable[[str, str], None]


class Layer:
    """A committed snapshot as a parent: its directories from itself down, and the attributes of its root."""

    __slots__ = ("attributes", "paths")

    def __init__(self, paths: tuple[str, ...], attributes: tuple[int, int, int]) -> None:
        self.paths = paths
        self.attributes = attributes


class SnapshotDirectory:
    """Makes, finds, renames and removes the directories; knows nothing of what is in `fs`."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._layers: dict[str, Layer] = {}
        self._making: set[str] = set()
        self._lock = threading.RLock()
        for path in (root, *(f"{root}/{part}" for part in (_ACTIVE, _COMMITTED, _REMOVED))):
            os.makedirs(path, 0o700, exist_ok=True)

    def active(self, key: str) -> str:
        """The directory of an active snapshot; NotFound."""
        path = f"{self._root}/{_ACTIVE}/{_spell(check_word(key, 'key'))}"
        if not os.path.isdir(f"{path}/fs"):
            raise NotFound(f"snapshot {key} does not exist", subject=key)
        return path

    def any(self, name: str) -> str:
        """The directory of the active snapshot with this key, else of the committed one with this name."""
        try:
            return self.active(name)
        except NotFound:
            path = self._committed(name)
            if not os.path.isdir(path):
                raise
            return path

    def exists(self, name: str) -> bool:
        return os.path.isdir(self._committed(name))

    def make(self, key: str, parent: str | None, *, work: bool, fill: Fill | None = None) -> str:
        """Make the directory of an active snapshot, `fs` with the attributes of its parent's root.

        `fill` gets `fs` under another name and the parent's `fs`; what it raises undoes everything.
        """
        path = f"{self._root}/{_ACTIVE}/{_spell(check_word(key, 'key'))}"
        with self._lock:
            layer = self.layer(parent) if parent else None
            if key in self._making or os.path.isdir(f"{path}/fs"):
                raise Conflict(f"snapshot {key} exists", subject=key)
            self._make_named(path, key, parent)
            self._making.add(key)
        try:
            if work:
                os.mkdir(f"{path}/work", 0o700)
            self._make_fs(path, layer, fill)
        except BaseException:
            self._delete(self._detach(_ACTIVE, key))
            raise
        finally:
            self._making.discard(key)
        return path

    def _make_named(self, path: str, key: str, parent: str | None) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            self._delete(self._detach(_ACTIVE, key))
            os.mkdir(path, 0o700)
        if parent:
            os.symlink(parent, f"{path}/parent")

    def _make_fs(self, path: str, layer: Layer | None, fill: Fill | None) -> None:
        attributes = layer.attributes if layer else (_MODE, 0, 0)
        if fill is None or layer is None:
            _make_root(f"{path}/fs", attributes)
            return
        _make_root(f"{path}/new", attributes)
        fill(layer.paths[0], f"{path}/new")
        os.rename(f"{path}/new", f"{path}/fs")

    def parent(self, path: str) -> str:
        """The name of the parent of the snapshot in directory `path`, "" for none."""
        try:
            return os.readlink(f"{path}/parent")
        except FileNotFoundError:
            return ""

    def layer(self, name: str) -> Layer:
        """The committed snapshot `name` as a parent; NotFound when it, or one below it, is missing."""
        with self._lock:
            return self._layers.get(name) or self._read_layer(name)

    def _read_layer(self, name: str) -> Layer:
        path = self._committed(name)
        try:
            found = os.stat(f"{path}/fs", follow_symlinks=False)
        except FileNotFoundError:
            raise NotFound(f"snapshot {name} does not exist", subject=name) from None
        below = self.parent(path)
        paths = (f"{path}/fs", *(self.layer(below).paths if below else ()))
        layer = Layer(paths, (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid))
        self._layers[name] = layer
        return layer

    def commit(self, key: str, name: str) -> None:
        source, target = self.active(key), self._committed(name)
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise Conflict(f"snapshot {name} exists", subject=name) from None
            raise

    def remove(self, name: str) -> None:
        """By key, else by name; the children of a committed snapshot forbid it."""
        part = _ACTIVE
        with self._lock:
            if not os.path.isdir(f"{self._root}/{_ACTIVE}/{_spell(check_word(name, 'key'))}"):
                part = _COMMITTED
                if children := [info.name for info in self.list() if info.parent == name]:
                    raise Conflict(f"snapshot {name} has children", subject=name, place=children[0])
                self._layers.pop(name, None)
            path = self._detach(part, name)
        self._delete(path)

    def list(self) -> list[SnapshotInfo]:
        return [
            SnapshotInfo(entry.replace("=", ":"), part == _COMMITTED, self.parent(f"{self._root}/{part}/{entry}"))
            for part in (_COMMITTED, _ACTIVE)
            for entry in os.listdir(f"{self._root}/{part}")
        ]

    def sync(self) -> None:
        sync_filesystem(self._root)

    def sweep(self) -> int:
        fd = open_directory(f"{self._root}/{_REMOVED}")
        try:
            return len(empty_directory(fd))
        finally:
            os.close(fd)

    def _committed(self, name: str) -> str:
        return f"{self._root}/{_COMMITTED}/{_spell(check_word(name, 'name'))}"

    def _detach(self, part: str, name: str) -> str:
        """Take the name away with one rename; where it is now."""
        path = f"{self._root}/{_REMOVED}/{os.urandom(12).hex()}"
        try:
            os.rename(f"{self._root}/{part}/{_spell(name)}", path)
        except FileNotFoundError:
            raise NotFound(f"snapshot {name} does not exist", subject=name) from None
        return path

    def _delete(self, path: str) -> None:
        """Known names first, a walk only for what is left; what resists stays for `sweep`."""
        if _remove_known(path):
            return
        fd = open_directory(f"{self._root}/{_REMOVED}")
        try:
            remove_entry(fd, os.path.basename(path), fd)
        except OSError:
            return
        finally:
            os.close(fd)


def _make_root(path: str, attributes: tuple[int, int, int]) -> None:
    mode, uid, gid = attributes
    os.mkdir(path, mode & 0o777)
    if uid or gid:
        os.chown(path, uid, gid)
    if mode != _MODE:
        os.chmod(path, mode)


def _remove_known(path: str) -> bool:
    try:
        for name in ("work/work", "work", "fs"):
            try:
                os.rmdir(f"{path}/{name}")
            except FileNotFoundError:
                continue
        try:
            os.unlink(f"{path}/parent")
        except FileNotFoundError:
            pass
        os.rmdir(path)
    except OSError:
        return False
    return True


def _spell(word: str) -> str:
    return word.replace(":", "=")
