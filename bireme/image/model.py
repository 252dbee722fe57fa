"""What the image store tells about: images, their layers, what was removed, how far a load is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from bireme.oci.image_spec import ImageConfig, ImageDocument


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One layer of an image: the blob (compressed or not), its content, the bytes of its files."""

    digest: str
    media_type: str
    blob_bytes: int
    diff_id: str
    files_bytes: int


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the database keeps of an image; `document` is the text of the configuration blob."""

    id: str
    manifest: str
    document: str
    layers: tuple[LayerRecord, ...]


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image as it is now. `references` and `repo_digests` are in familiar spelling; sizes are bytes.

    `chain_ids` go bottom up, `chain_id` is the topmost ("" without layers) and names the snapshot to prepare from.
    """

    id: str
    manifest: str
    references: tuple[str, ...]
    repo_digests: tuple[str, ...]
    created: str
    size: int
    architecture: str
    variant: str
    os: str
    author: str
    comment: str
    config: ImageConfig
    document: ImageDocument
    layers: tuple[LayerRecord, ...]
    chain_ids: tuple[str, ...]
    chain_id: str


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One step of an image's history, newest first; `id` is "<missing>" for all but the image itself."""

    id: str
    created: str
    created_by: str
    tags: tuple[str, ...] = ()
    size: int = 0
    comment: str = ""


class Removal(NamedTuple):
    """One line of the answer to a removal: a reference that was untagged, an image or layer that was deleted."""

    action: Literal["untagged", "deleted"]
    subject: str


class ImageUser(NamedTuple):
    """An instance made from an image."""

    id: str
    running: bool


class Progress(NamedTuple):
    """How far an operation is with one thing (`id`: a short layer id or a name); bytes, `total` 0 when unknown."""

    id: str
    action: str
    current: int = 0
    total: int = 0


class Loaded(NamedTuple):
    """An image that a load brought: the familiar reference, or "" when the archive gave it no name."""

    reference: str
    id: str


InUse = Callable[[str], Sequence[ImageUser]]
"""Who uses the image with this id."""

OnProgress = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """For those who do not want to know."""


def short_id(image_id: str) -> str:
    """Twelve hex digits."""
    return image_id.partition(":")[2][:12] or image_id[:12]
