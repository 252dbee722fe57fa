"""Collecting what nothing refers to: blobs and snapshots that no image, no instance and no lease needs.

    image record --> manifest, config, layer blobs, chain of committed snapshots
    active snapshot (an instance's root) --> its chain of parents
    lease --> what an operation under way has made or is about to use

Who makes content takes a lease, adds every blob and snapshot name to it *before* looking whether it exists, records
the image, and releases the lease. Marking, taking names away and changing a lease exclude each other through one lock,
so there is no moment in which something needed is neither leased nor recorded. Leases live in memory: the content of
an operation whose process died belongs to nobody.

Deleting is in an order that a crash may interrupt anywhere: snapshots children first, each by one rename; blobs one by
one; an image record always goes before its content.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from bireme.errors import BiremeError
from bireme.storage.content import ContentStore
from bireme.storage.snapshot import Snapshotter

if TYPE_CHECKING:
    from collections.abc import Iterator


class Needed(NamedTuple):
    """Names that must stay: digests of blobs, names or keys of snapshots (their parents stay by themselves)."""

    blobs: frozenset[str]
    snapshots: frozenset[str]


class Collected(NamedTuple):
    """What one collection removed."""

    blobs: tuple[str, ...]
    snapshots: tuple[str, ...]
    freed_bytes: int


class Lease:
    """Content that must stay while an operation runs."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.blobs: set[str] = set()
        self.snapshots: set[str] = set()

    def add_blob(self, digest: str) -> None:
        """From now on this blob is not collected, whether it exists yet or not."""
        with self._lock:
            self.blobs.add(digest)

    def add_snapshot(self, name: str) -> None:
        """The same for a committed name or an active key."""
        with self._lock:
            self.snapshots.add(name)


class Collector:
    """One for a content store and snapshotter. `roots` tells what the image records need, asked under the lock.

    `prefix` marks the active snapshots that operations make for themselves; others belong to instances and stay.
    """

    def __init__(
        self, content: ContentStore, snapshotter: Snapshotter, roots: Callable[[], Needed], prefix: str
    ) -> None:
        self._content = content
        self._snapshotter = snapshotter
        self._roots = roots
        self._prefix = prefix
        self._lock = threading.RLock()
        self._leases: set[Lease] = set()

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """Hold content for the length of a `with` block."""
        lease = Lease(self._lock)
        with self._lock:
            self._leases.add(lease)
        try:
            yield lease
        finally:
            with self._lock:
                self._leases.discard(lease)

    def collect(self) -> Collected:
        """Remove what is not needed, and what earlier removals and dead writers left."""
        with self._lock:
            roots = self._roots()
            blobs = roots.blobs.union(*(lease.blobs for lease in self._leases))
            snapshots = self._collect_snapshots(roots.snapshots.union(*(lease.snapshots for lease in self._leases)))
            dead, freed = self._collect_blobs(blobs)
            self._content.sweep()
        self._snapshotter.sweep()
        return Collected(tuple(dead), tuple(snapshots), freed)

    def _collect_snapshots(self, needed: Iterable[str]) -> list[str]:
        found = {info.name: info for info in self._snapshotter.list()}
        live: set[str] = set()
        pending = list(needed)
        pending += (n for n, info in found.items() if not info.committed and not n.startswith(self._prefix))
        while pending:
            name = pending.pop()
            if name not in live and name in found:
                live.add(name)
                pending.append(found[name].parent)
        dead = [info for name, info in found.items() if name not in live]
        return self._remove_all([info.name for info in dead], {info.name: info.parent for info in dead})

    def _remove_all(self, dead: list[str], parents: dict[str, str]) -> list[str]:
        """Children before parents; one that resists keeps its parents, not the others."""
        removed: list[str] = []
        pending = dead
        while pending:
            waiting = {parents[name] for name in pending}
            leaves = [name for name in pending if name not in waiting]
            pending = [name for name in pending if name in waiting]
            done = [name for name in leaves if self._remove(name)]
            removed += done
            if not done:
                break
        return removed

    def _remove(self, name: str) -> bool:
        try:
            self._snapshotter.remove(name)
        except BiremeError:
            return False
        return True

    def _collect_blobs(self, needed: Iterable[str]) -> tuple[list[str], int]:
        keep = set(needed)
        dead = [blob.digest for blob in self._content.list() if blob.digest not in keep]
        return dead, sum(self._content.remove(digest) for digest in dead)
