"""Snapshots: what the root filesystem of an instance is made of.

    prepare(key, parent)     an active snapshot: writable, starts as a copy of the committed one named `parent`
    commit(key, name)        the active snapshot becomes the immutable committed one called `name`
    remove(key or name)      and it is gone

A layer is unpacked into an active snapshot whose parent is the layer below, then committed under its chain id; the
root of an instance is an active snapshot on the topmost. Keys and names are two name spaces. Every implementation
passes tests/suites/snapshotter.py.

Nothing here is durable until `sync`: a crash of the process loses nothing, after a power cut only what was synced
counts, so whoever records a name elsewhere calls `sync` first.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, Protocol

from bireme.errors import Invalid
from bireme.instance.driver import RootFilesystem
from bireme.storage.tree import Usage

WhiteoutStyle = Literal["overlay", "apply"]
"""How a layer's deletions are written: as overlayfs wants them, or carried out on the copy."""

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,119}\Z")


class SnapshotInfo(NamedTuple):
    """One snapshot; `name` is the key of an active one."""

    name: str
    committed: bool
    parent: str


class Snapshotter(Protocol):
    """The contract. Every method may be called from any thread. NotFound for a name or key that does not exist."""

    @property
    def name(self) -> str:
        """Which one this is: "overlay", "native"."""
        ...

    @property
    def whiteouts(self) -> WhiteoutStyle:
        """What unpacking a layer into an active snapshot must do with deletions."""
        ...

    def prepare(self, key: str, parent: str | None) -> RootFilesystem:
        """Make an active snapshot; Conflict when the key is taken. Not durable, and quick: starts wait for it."""
        ...

    def mounts(self, key: str) -> RootFilesystem:
        """What `prepare` returned. `upper` is the directory to unpack into. Without `lower` it is the whole root."""
        ...

    def parents(self, key: str) -> tuple[str, ...]:
        """Directories of the parent layers of an active snapshot, topmost first, read-only."""
        ...

    def commit(self, key: str, name: str) -> None:
        """Rename atomically; Conflict when `name` exists (the active snapshot stays)."""
        ...

    def remove(self, name: str) -> None:
        """Remove an active snapshot by key, else a committed one by name. Conflict while another one stands on it.

        The name is gone at once and for good; what cannot be deleted is left for `sweep`.
        """
        ...

    def exists(self, name: str) -> bool:
        """Whether a committed snapshot is called so."""
        ...

    def usage(self, name: str) -> Usage:
        """What the snapshot itself occupies, without its parents."""
        ...

    def list(self) -> list[SnapshotInfo]:
        """Every snapshot, active and committed."""
        ...

    def sync(self) -> None:
        """Make everything committed so far durable."""
        ...

    def sweep(self) -> int:
        """Idle work: delete what was removed but is still on disk, make ready what `prepare` needs; how many entries
        resist."""
        ...


def check_word(word: str, what: str) -> str:
    """`word` when it may be a key or name: letters, digits and `_.:+-`; Invalid otherwise."""
    if not _WORD.match(word):
        raise Invalid(f"invalid snapshot {what}", subject=word[:200])
    return word
