"""The image store, as the engine sees it: names, images, archives, and what is kept on disk for them.

All methods block (disk, worker processes): call them from a thread. Each is atomic for its callers: an image is either
fully there, named, unpacked and durable, or it is not there, whatever process died meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from bireme.errors import Invalid
from bireme.image.archive import ArchiveReader
from bireme.image.install import UNPACK_PREFIX, Installer, Recipe
from bireme.image.model import (
    HistoryEntry,
    Image,
    InUse,
    Loaded,
    OnProgress,
    Removal,
    ignore_progress,
)
from bireme.image.removal import remove_image
from bireme.image.save import save_images
from bireme.image.table import ImageTable
from bireme.oci.digest import SHA256, is_digest
from bireme.oci.platform import from_machine
from bireme.oci.reference import parse_reference
from bireme.storage.content import ContentStore
from bireme.storage.db import Database
from bireme.storage.gc import Collected, Collector, Lease
from bireme.storage.snapshot import Snapshotter

_MISSING = "<missing>"


class ImageStore:
    """Images of one data root. Methods may be called from any thread."""

    def __init__(self, db: Database, content: ContentStore, snapshotter: Snapshotter) -> None:
        self.content = content
        self.snapshotter = snapshotter
        self._table = ImageTable(db)
        self._installer = Installer(content, snapshotter, self._table)
        self._collector = Collector(content, snapshotter, self._table.needed, UNPACK_PREFIX)
        self._naming = threading.RLock()

    def resolve(self, text: str) -> Image:
        """By id, reference or unique id prefix; NotFound "No such image: x". Fast, in memory."""
        return self._table.resolve(text)

    def list(self) -> Sequence[Image]:
        """Every image, newest first. Fast, in memory."""
        return self._table.list()

    def tag(self, source: str, target: str) -> Image:
        """Give an image one more name, taking it from whatever had it."""
        reference = parse_reference(target)
        if reference.digest:
            raise Invalid("refusing to create a tag with a digest reference", subject=target)
        if reference.familiar_name == SHA256:
            raise Invalid("refusing to create an ambiguous tag using digest algorithm as name", subject=target)
        with self._naming:
            image = self._table.resolve(source)
            self._table.tag(image.id, reference)
            return self._table.image(image.id)

    def remove(self, text: str, force: bool, in_use: InUse) -> Sequence[Removal]:
        """Remove a name, and the image with its last one; NotFound, Conflict with Docker's words."""
        with self._naming:
            removals = remove_image(self._table, text, force, in_use)
        if any(removal.action == "deleted" for removal in removals):
            gone = self.collect().snapshots
            removals += [Removal("deleted", name) for name in gone if is_digest(name)]
        return removals

    def prune(self, in_use: InUse, *, every: bool = False) -> tuple[Sequence[Removal], int]:
        """Delete images without a name (`every`: all that no instance uses); what went, and the bytes freed."""
        removals: list[Removal] = []
        with self._naming:
            for image in self._table.list():
                if in_use(image.id) or (image.references and not every):
                    continue
                removals += remove_image(self._table, image.id, True, in_use)
        return removals, self.collect().freed_bytes

    def collect(self) -> Collected:
        """Remove every blob and snapshot that no image, instance or running operation needs."""
        return self._collector.collect()

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """Keep new content for the length of a `with` block; `install` what it is for before it ends."""
        with self._collector.lease() as lease:
            yield lease

    def install(self, lease: Lease, recipe: Recipe, progress: OnProgress = ignore_progress) -> Image:
        """Make an image of blobs that were stored under `lease`."""
        return self._installer.install(lease, recipe, progress)

    def load(self, read: Callable[[int], bytes], progress: OnProgress = ignore_progress) -> Sequence[Loaded]:
        """Load an archive (Docker's, or an OCI layout in a tar; plain or compressed) that `read(n)` delivers.

        Invalid for anything wrong with it: then nothing of it stays.
        """
        platform = from_machine(os.uname().machine)
        loaded: list[Loaded] = []
        try:
            with self.lease() as lease:
                for recipe in ArchiveReader(self.content, lease, platform).read(read, progress):
                    image = self.install(lease, recipe, progress)
                    names = [reference.familiar for reference in recipe.references] or [""]
                    loaded += (Loaded(name, image.id) for name in names)
                unused = lease.blobs - self._table.needed().blobs
        except BaseException:
            self.collect()
            raise
        if unused:
            self.collect()
        return loaded

    def save(self, names: Sequence[str], sink: Callable[[bytes], object]) -> None:
        """Write an archive of images to `sink`. A name without tag means all tags of the repository."""
        with self.lease() as lease:
            save_images(self._table, self.content, lease, names, sink)

    def history(self, image: Image) -> Sequence[HistoryEntry]:
        """The steps an image was made in, newest first."""
        layers = iter(image.layers)
        entries: list[HistoryEntry] = []
        for step in image.document.history or ():
            layer = None if step.empty_layer else next(layers, None)
            entries.append(
                HistoryEntry(
                    id=_MISSING,
                    created=step.created,
                    created_by=step.created_by,
                    size=layer.files_bytes if layer else 0,
                    comment=step.comment,
                )
            )
        entries += (
            HistoryEntry(id=_MISSING, created=image.created, created_by="", size=layer.files_bytes) for layer in layers
        )
        if not entries:
            entries = [HistoryEntry(id=_MISSING, created=image.created, created_by="")]
        top = entries.pop()
        entries.append(
            HistoryEntry(
                id=image.id,
                created=top.created,
                created_by=top.created_by,
                tags=image.references,
                size=top.size,
                comment=top.comment,
            )
        )
        return entries[::-1]
