"""Snapshots as directories: the layout that the overlay and the native snapshotter share.

    ROOT/new/TOKEN.N              being made, or a spare: fs, work (overlay)
    ROOT/active/KEY@PARENT/       fs, work; the name tells the parent
    ROOT/committed/NAME/          fs, parent -> NAME (a dangling symbolic link)
    ROOT/removed/RANDOM           being deleted

Every step from one place to another is one rename, so a process that dies anywhere leaves either state. `removed` and
what a dead process left in `new` are emptied by `sweep`. ":" in a name is "=" on disk, since overlayfs separates layers
by it.

Making a directory costs an inode, which on a busy disk takes a hundred times as long as a rename. So `make`, which is
on the way of every instance's start, takes a spare and renames it; removals and `sweep`, which are not, make new ones.
What was removed becomes a spare again, but for its `fs` and what overlayfs had in `work`: whoever still holds the old
root (a mount that goes late, somebody who entered it) holds deleted directories, never those of the next instance.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from collections.abc import Callable

from bireme.errors import Conflict, NotFound
from bireme.storage.durable import sync_filesystem
from bireme.storage.snapshot import SnapshotInfo, check_word
from bireme.storage.tree import empty_directory, open_directory, remove_entry

_NEW, _ACTIVE, _COMMITTED, _REMOVED = "new", "active", "committed", "removed"
_MODE = 0o755

Fill = Callable[[str, str], None]


class Layer:
    """A committed snapshot as a parent: its directories from itself down, and the attributes of its root."""

    __slots__ = ("attributes", "paths")

    def __init__(self, paths: tuple[str, ...], attributes: tuple[int, int, int]) -> None:
        self.paths = paths
        self.attributes = attributes


class SnapshotDirectory:
    """Makes, finds, renames and removes the directories; knows nothing of what is in `fs`.

    One at a time may be open on a root. `work` says whether active snapshots have a work directory beside `fs`, and
    `spares` how many directories are kept ready.
    """

    def __init__(self, root: str, *, work: bool, spares: int = 0) -> None:
        self._root = root
        self._work = work
        self._wanted = spares
        self._lock = threading.RLock()
        self._layers: dict[str, Layer] = {}
        self._spares: list[str] = []
        self._token = os.urandom(8).hex()
        self._numbers = itertools.count()
        for path in (root, *(f"{root}/{part}" for part in (_NEW, _ACTIVE, _COMMITTED, _REMOVED))):
            os.makedirs(path, 0o700, exist_ok=True)
        self._making: dict[str, str] = {}
        self._active: dict[str, str] = {}
        for entry in os.listdir(f"{root}/{_ACTIVE}"):
            self._active[entry.partition("@")[0].replace("=", ":")] = entry

    def active(self, key: str) -> str:
        """The directory of an active snapshot; NotFound."""
        entry = self._active.get(check_word(key, "key"))
        if entry is None:
            raise _missing(key)
        return f"{self._root}/{_ACTIVE}/{entry}"

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

    def make(self, key: str, parent: str | None, fill: Fill | None = None) -> str:
        """Make the directory of an active snapshot, `fs` with the attributes of its parent's root.

        `fill` gets the parent's `fs` and the new one before anybody sees it; what it raises undoes everything.
        """
        path = f"{self._root}/{_ACTIVE}/{_entry(key, parent)}"
        with self._lock:
            layer = self.layer(parent) if parent else None
            if key in self._active or key in self._making:
                raise Conflict(f"snapshot {key} exists", subject=key)
            self._making[key] = parent or ""
        try:
            fresh = self._take_spare() or self._make_new()
            try:
                if layer:
                    _set_root(f"{fresh}/fs", layer.attributes)
                    if fill is not None:
                        fill(layer.paths[0], f"{fresh}/fs")
                os.rename(fresh, path)
            except BaseException:
                self._delete(self._detach(fresh))
                raise
            self._active[key] = os.path.basename(path)
        finally:
            del self._making[key]
        return path

    def _take_spare(self) -> str:
        with self._lock:
            return self._spares.pop() if self._spares else ""

    def _make_new(self) -> str:
        path = self._fresh_path()
        os.mkdir(path, 0o700)
        _make_root(path)
        if self._work:
            os.mkdir(f"{path}/work", 0o700)
        return path

    def _fresh_path(self) -> str:
        return f"{self._root}/{_NEW}/{self._token}.{next(self._numbers)}"

    def _refill(self) -> None:
        while len(self._spares) < self._wanted:
            try:
                path = self._make_new()
            except OSError:
                return
            with self._lock:
                self._spares.append(path)

    def parent(self, key: str) -> str:
        """The name of the parent of an active snapshot, "" for none."""
        return os.path.basename(self.active(key)).partition("@")[2].replace("=", ":")

    def layer(self, name: str) -> Layer:
        """The committed snapshot `name` as a parent; NotFound when it, or one below it, is missing."""
        with self._lock:
            return self._layers.get(name) or self._read_layer(name)

    def _read_layer(self, name: str) -> Layer:
        path = self._committed(name)
        try:
            found = os.stat(f"{path}/fs", follow_symlinks=False)
        except FileNotFoundError:
            raise _missing(name) from None
        below = _read_parent(path)
        paths = (f"{path}/fs", *(self.layer(below).paths if below else ()))
        layer = Layer(paths, (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid))
        self._layers[name] = layer
        return layer

    def commit(self, key: str, name: str) -> None:
        source, parent, target = self.active(key), self.parent(key), self._committed(name)
        try:
            if parent:
                os.symlink(parent, f"{source}/parent")
        except FileExistsError:
            pass
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise Conflict(f"snapshot {name} exists", subject=name) from None
            raise
        del self._active[key]

    def remove(self, name: str) -> None:
        """By key, else by name; the children of a committed snapshot forbid it."""
        with self._lock:
            entry = self._active.get(check_word(name, "key"))
            if entry is not None:
                path = self._detach(f"{self._root}/{_ACTIVE}/{entry}")
                del self._active[name]
            else:
                path = self._detach_committed(name)
        if entry is None or not self._reuse(path):
            self._delete(path)
            self._refill()

    def _reuse(self, path: str) -> bool:
        """Make a spare of a removed active snapshot; False when it has more than was made here, or nobody wants it."""
        if not self._work or len(self._spares) >= self._wanted:
            return False
        try:
            _remove_if_there(f"{path}/work/work")
            os.rmdir(f"{path}/fs")
            if os.listdir(path) != ["work"] or os.listdir(f"{path}/work"):
                return False
            _make_root(path)
            spare = self._fresh_path()
            os.rename(path, spare)
        except OSError:
            return False
        with self._lock:
            self._spares.append(spare)
        return True

    def _detach_committed(self, name: str) -> str:
        path = self._committed(name)
        if not os.path.isdir(path):
            raise _missing(name)
        making = [key for key, parent in list(self._making.items()) if parent == name]
        if children := making + [info.name for info in self.list() if info.parent == name]:
            raise Conflict(f"snapshot {name} has children", subject=name, place=children[0])
        self._layers.pop(name, None)
        return self._detach(path)

    def list(self) -> list[SnapshotInfo]:
        base = f"{self._root}/{_COMMITTED}"
        committed = [
            SnapshotInfo(entry.replace("=", ":"), True, _read_parent(f"{base}/{entry}")) for entry in os.listdir(base)
        ]
        active = [entry.replace("=", ":").partition("@") for entry in list(self._active.values())]
        return [*committed, *(SnapshotInfo(key, False, parent) for key, _, parent in active)]

    def sync(self) -> None:
        sync_filesystem(self._root)

    def sweep(self) -> int:
        """Delete what is being deleted and what the dead were making, make spares; how many entries resist."""
        base = f"{self._root}/{_NEW}"
        for entry in os.listdir(base):
            if not entry.startswith(self._token):
                self._detach(f"{base}/{entry}")
        fd = open_directory(f"{self._root}/{_REMOVED}")
        try:
            left = len(empty_directory(fd))
        finally:
            os.close(fd)
        self._refill()
        return left

    def _committed(self, name: str) -> str:
        return f"{self._root}/{_COMMITTED}/{_spell(check_word(name, 'name'))}"

    def _detach(self, path: str) -> str:
        """Take a name away with one rename; where it is now."""
        target = f"{self._root}/{_REMOVED}/{os.urandom(12).hex()}"
        try:
            os.rename(path, target)
        except FileNotFoundError:
            raise _missing(os.path.basename(path)) from None
        return target

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


def _read_parent(path: str) -> str:
    try:
        return os.readlink(f"{path}/parent")
    except FileNotFoundError:
        return ""


def _make_root(path: str) -> None:
    os.mkdir(f"{path}/fs")
    os.chmod(f"{path}/fs", _MODE)


def _set_root(path: str, attributes: tuple[int, int, int]) -> None:
    mode, uid, gid = attributes
    if uid or gid:
        os.chown(path, uid, gid)
    if mode != _MODE:
        os.chmod(path, mode)


def _remove_known(path: str) -> bool:
    try:
        for name in ("work/work", "work", "fs"):
            _remove_if_there(f"{path}/{name}")
        os.rmdir(path)
    except OSError:
        return False
    return True


def _remove_if_there(path: str) -> None:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return


def _entry(key: str, parent: str | None) -> str:
    return f"{_spell(check_word(key, 'key'))}@{_spell(check_word(parent, 'name')) if parent else ''}"


def _spell(word: str) -> str:
    return word.replace(":", "=")


def _missing(name: str) -> NotFound:
    return NotFound(f"snapshot {name} does not exist", subject=name)
