"""Snapshots as full copies, for file systems that overlayfs cannot stand on.

Preparing copies the parent's tree (shared extents where the file system has reflinks); a root is one plain directory,
so `lower` is empty and nothing is merged. Deletions of a layer are carried out on the copy.
"""

from __future__ import annotations

from bireme.instance.driver import RootFilesystem
from bireme.storage.directory import SnapshotDirectory
from bireme.storage.snapshot import SnapshotInfo, WhiteoutStyle
from bireme.storage.tree import Usage, copy_tree, measure


class NativeSnapshotter:
    """Every snapshot is a whole tree. Keeps everything below `root`."""

    name = "native"
    whiteouts: WhiteoutStyle = "apply"

    def __init__(self, root: str) -> None:
        self._directory = SnapshotDirectory(root, work=False)

    def prepare(self, key: str, parent: str | None) -> RootFilesystem:
        path = self._directory.make(key, parent, copy_tree)
        return self._root(path, parent)

    def mounts(self, key: str) -> RootFilesystem:
        return self._root(self._directory.active(key), self._directory.parent(key))

    def parents(self, key: str) -> tuple[str, ...]:
        self._directory.active(key)
        return ()

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

    def _root(self, path: str, parent: str | None) -> RootFilesystem:
        """A committed tree is whole, so one layer is all a machine needs."""
        layers = self._directory.layer(parent).paths[:1] if parent else ()
        return RootFilesystem(lower=(), upper=f"{path}/fs", layers=layers)
