"""Snapshots as layers of an overlay: an active one is an empty upper directory, its parents are shared.

The kernel merges; nothing is copied. A deletion is a character device 0:0 in place of the name, an opaque directory
has the extended attribute trusted.overlay.opaque=y. The mount itself is made by the runtime, in another process: here
are only the directories it is made of. See Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

from bireme.instance.driver import RootFilesystem
from bireme.storage.directory import SnapshotDirectory
from bireme.storage.snapshot import SnapshotInfo, WhiteoutStyle
from bireme.storage.tree import Usage, measure

_SPARES = 16


class OverlaySnapshotter:
    """Layers are merged by overlayfs at mount time. Keeps everything below `root`."""

    name = "overlay"
    whiteouts: WhiteoutStyle = "overlay"

    def __init__(self, root: str) -> None:
        self._directory = SnapshotDirectory(root, work=True, spares=_SPARES)

    def prepare(self, key: str, parent: str | None) -> RootFilesystem:
        path = self._directory.make(key, parent)
        return self._root(path, self._directory.layer(parent).paths if parent else ())

    def mounts(self, key: str) -> RootFilesystem:
        path = self._directory.active(key)
        return self._root(path, self.parents(key))

    def parents(self, key: str) -> tuple[str, ...]:
        parent = self._directory.parent(key)
        return self._directory.layer(parent).paths if parent else ()

    def commit(self, key: str, name: str) -> None:
        self._directory.commit(key, name)

    def remove(self, name: str) -> None:
        self._directory.remove(name)

    def exists(self, name: str) -> bool:
        return self._directory.exists(name)

    def usage(self, name: str) -> Usage:
        return measure(f"{self._directory.any(name)}/fs")

    def list(self) -> list[SnapshotInfo]:
        return self._directory.list()

    def sync(self) -> None:
        self._directory.sync()

    def sweep(self) -> int:
        return self._directory.sweep()

    def _root(self, path: str, lower: tuple[str, ...]) -> RootFilesystem:
        return RootFilesystem(lower=lower, layers=lower, upper=f"{path}/fs", work=f"{path}/work")
