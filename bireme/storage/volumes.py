"""The directories of volumes: ROOT/NAME/_data.

A directory without a record in the database is nobody's: whoever makes one commits the record afterwards, whoever
removes one deletes the record first, and `sweep` takes what a killed engine left in between. What is removed is first
renamed (names of volumes never begin with a dot), so that its name is free at once.
"""

from __future__ import annotations

import os
from collections.abc import Container

from bireme.storage.durable import sync_directory
from bireme.storage.tree import empty_directory, open_directory

_GONE = ".gone-"


class VolumeDirectories:
    """Every method blocks and may be called from any thread."""

    def __init__(self, root: str) -> None:
        self._root = root

    def path(self, name: str) -> str:
        """Where the contents of a volume lie."""
        return f"{self._root}/{name}/_data"

    def make(self, name: str) -> str:
        """Make an empty volume durably; what lies there without a record is put away first."""
        os.makedirs(self._root, 0o711, exist_ok=True)
        top, path = f"{self._root}/{name}", self.path(name)
        try:
            os.mkdir(top, 0o711)
        except FileExistsError:
            self._put_away(name)
            os.mkdir(top, 0o711)
        os.mkdir(path, 0o755)
        os.chmod(path, 0o755)
        sync_directory(top)
        sync_directory(self._root)
        return path

    def remove(self, name: str) -> None:
        """The name is free at once; what resists deletion is left for `sweep`."""
        self._put_away(name)
        self.empty()

    def _put_away(self, name: str) -> None:
        try:
            os.rename(f"{self._root}/{name}", f"{self._root}/{_GONE}{os.urandom(8).hex()}")
        except FileNotFoundError:
            pass

    def sweep(self, known: Container[str]) -> None:
        """Put away every directory whose name is not `known`."""
        for name in self._names():
            if name not in known and not name.startswith(_GONE):
                self._put_away(name)

    def empty(self) -> None:
        """Delete what was put away."""
        for name in self._names():
            if name.startswith(_GONE):
                self._delete(f"{self._root}/{name}")

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._root)
        except FileNotFoundError:
            return []

    def _delete(self, path: str) -> None:
        try:
            fd = open_directory(path)
        except FileNotFoundError:
            return
        try:
            empty_directory(fd)
        finally:
            os.close(fd)
        try:
            os.rmdir(path)
        except OSError:
            pass
