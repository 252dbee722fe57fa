"""The directories of the instances on disk: ROOT/ID, with the log and whatever a driver keeps there; and beside them
the three files in memory (etc.py).

Making an inode on a busy disk takes ten times as long as a rename. So the directory of a removed instance is kept,
empty, and renamed for the next one. Nothing inside is used again: whoever still holds a file holds a deleted one.
"""

from __future__ import annotations

import itertools
import os
import shutil

from bireme.engine.etc import EtcFiles
from bireme.engine.files import NAMES

_SPARES = 16


class Directories:
    """Keeps up to 16 empty ones; those of an engine before this one are found by `names`. Any thread may remove."""

    def __init__(self, root: str) -> None:
        self.etc = EtcFiles()
        self._root = root
        self._spares: list[str] = []
        self._token = os.urandom(4).hex()
        self._numbers = itertools.count()

    def path(self, identity: str) -> str:
        return f"{self._root}/{identity}"

    def names(self) -> list[str]:
        """Everything there but our spares: ids, known or not."""
        there = {*os.listdir(self._root), *self.etc.identities()}
        return [name for name in there if not name.startswith(f"spare.{self._token}.")]

    def make(self, identity: str) -> str:
        path = self.path(identity)
        try:
            os.rename(self._spares.pop(), path)
        except (IndexError, FileNotFoundError):
            os.mkdir(path, 0o700)
        return path

    def remove(self, identity: str) -> None:
        """All files of an instance: known names first, a walk only for more."""
        self.etc.remove(identity)
        path = self.path(identity)
        known = {*(name for name, _ in NAMES), f"{identity}-json.log"}
        try:
            entries = os.listdir(path)
        except FileNotFoundError:
            return
        if not known.issuperset(entries):
            shutil.rmtree(path)
            return
        for name in entries:
            os.unlink(f"{path}/{name}")
        if len(self._spares) >= _SPARES:
            os.rmdir(path)
            return
        spare = f"{self._root}/spare.{self._token}.{next(self._numbers)}"
        os.rename(path, spare)
        self._spares.append(spare)
