"""Making an image out of a configuration and layer blobs that are in the content store.

Load, bootstrap and (later) pull and build all end here: every layer is unpacked on the snapshot of the one below and
committed under its chain id, then one database commit makes the image exist. Until then a lease holds everything, and
a failure leaves nothing that the collector would not take.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from bireme.errors import Conflict, Invalid, Unsupported
from bireme.image.model import Image, ImageRecord, LayerRecord, OnProgress, Progress, ignore_progress
from bireme.image.table import ImageTable
from bireme.oci.digest import chain_ids, digest_of, encoded_of
from bireme.oci.image_spec import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    Descriptor,
    ImageDocument,
    Manifest,
    decode_document,
    encode,
)
from bireme.oci.reference import Reference
from bireme.storage.codec import MAGIC_MAX_BYTES, compression_of
from bireme.storage.content import ContentStore
from bireme.storage.gc import Lease
from bireme.storage.snapshot import Snapshotter
from bireme.storage.unpack import unpack

UNPACK_PREFIX = "unpack-"
"""Keys of active snapshots that layers are unpacked into."""

_LAYERS_MAX = 400
_MEDIA_TYPES = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


class Recipe(NamedTuple):
    """An image to be: its configuration and layer blobs bottom up, all in the content store and leased.

    `manifest` is the manifest as it came, empty to have one written.
    """

    document: bytes
    layers: Sequence[str]
    references: Sequence[Reference] = ()
    manifest: bytes = b""


class Installer:
    """Turns recipes into images."""

    def __init__(self, content: ContentStore, snapshotter: Snapshotter, table: ImageTable) -> None:
        self._content = content
        self._snapshotter = snapshotter
        self._table = table

    def install(self, lease: Lease, recipe: Recipe, progress: OnProgress = ignore_progress) -> Image:
        """Unpack, then record. Invalid when layers and configuration do not belong together or are bad."""
        document = decode_document(recipe.document)
        diff_ids = _check(document, recipe)
        layers = []
        parent: str | None = None
        fresh = False
        for diff_id, chain_id, digest in zip(diff_ids, chain_ids(diff_ids), recipe.layers, strict=True):
            layer, unpacked = self._layer(lease, digest, diff_id, chain_id, parent, progress)
            layers.append(layer)
            parent = chain_id
            fresh = fresh or unpacked
        config = self._content.put(lease.add_blob, recipe.document)
        manifest = recipe.manifest or encode(_manifest(recipe.document, layers))
        record = ImageRecord(
            id=config.digest,
            manifest=self._content.put(lease.add_blob, manifest).digest,
            document=recipe.document.decode(),
            layers=tuple(layers),
        )
        if fresh:
            self._snapshotter.sync()
        return self._table.insert(record, recipe.references)

    def _layer(
        self, lease: Lease, digest: str, diff_id: str, chain_id: str, parent: str | None, progress: OnProgress
    ) -> tuple[LayerRecord, bool]:
        """The layer, and whether it was unpacked now.

        A layer whose snapshot exists is unpacked all the same, unless its blob is known to have this content.
        """
        lease.add_snapshot(chain_id)
        size = self._content.size(digest)
        files_bytes = self._table.known_layer(digest, diff_id)
        name = encoded_of(diff_id)[:12]
        unpacked = files_bytes is None or not self._snapshotter.exists(chain_id)
        if files_bytes is None or unpacked:
            files_bytes = self._unpack(lease, digest, diff_id, chain_id, parent, progress)
        progress(Progress(name, "Loaded layer", size, size))
        layer = LayerRecord(
            digest=digest,
            media_type=self._media_type(digest),
            blob_bytes=size,
            diff_id=diff_id,
            files_bytes=files_bytes,
        )
        return layer, unpacked

    def _unpack(
        self, lease: Lease, digest: str, diff_id: str, chain_id: str, parent: str | None, progress: OnProgress
    ) -> int:
        key = UNPACK_PREFIX + os.urandom(12).hex()
        name, total = encoded_of(diff_id)[:12], self._content.size(digest)
        lease.add_snapshot(key)
        root = self._snapshotter.prepare(key, parent)
        blob = self._content.open(digest)
        try:
            done = unpack(
                blob,
                root.upper,
                self._snapshotter.whiteouts,
                digest=digest,
                diff_id=diff_id,
                parents=self._snapshotter.parents(key),
                progress=lambda current: progress(Progress(name, "Loading layer", current, total)),
            )
            self._commit(key, chain_id)
        except BaseException:
            self._snapshotter.remove(key)
            raise
        finally:
            os.close(blob)
        return done.files_bytes

    def _commit(self, key: str, chain_id: str) -> None:
        try:
            self._snapshotter.commit(key, chain_id)
        except Conflict:
            self._snapshotter.remove(key)

    def _media_type(self, digest: str) -> str:
        fd = self._content.open(digest)
        try:
            return _MEDIA_TYPES.get(compression_of(os.pread(fd, MAGIC_MAX_BYTES, 0)), OCI_LAYER)
        finally:
            os.close(fd)


def _check(document: ImageDocument, recipe: Recipe) -> list[str]:
    diff_ids = list(document.rootfs.diff_ids or ())
    if len(diff_ids) != len(recipe.layers):
        raise Invalid(f"invalid manifest, layers length mismatch: expected {len(recipe.layers)}, got {len(diff_ids)}")
    if len(diff_ids) > _LAYERS_MAX:
        raise Unsupported(f"images with more than {_LAYERS_MAX} layers are not supported")
    if document.os not in ("", "linux"):
        raise Unsupported(f"cannot load {document.os} image on linux", subject=document.os)
    return diff_ids


def _manifest(document: bytes, layers: Sequence[LayerRecord]) -> Manifest:
    return Manifest(
        config=Descriptor(media_type=OCI_CONFIG, digest=digest_of(document), size=len(document)),
        layers=[
            Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.blob_bytes) for layer in layers
        ],
    )
