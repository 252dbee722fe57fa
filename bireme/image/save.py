"""Writing image archives as Docker 25 and later do: Docker's list and an OCI layout over one set of blobs.

Times and order are fixed: the same images give the same bytes. See archive.py for the layout.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from bireme.errors import Internal, Invalid
from bireme.image.table import ImageTable
from bireme.oci.digest import encoded_of, new_hash
from bireme.oci.image_spec import (
    CONTAINERD_NAME,
    DOCUMENT_MAX_BYTES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    REF_NAME,
    Descriptor,
    decode_manifest,
)
from bireme.oci.reference import Reference, parse_reference
from bireme.storage.content import ContentStore
from bireme.storage.gc import Lease
from bireme.storage.tarwrite import TarWriter, make_entry

_CHUNK = 1 << 20


def save_images(
    table: ImageTable, content: ContentStore, lease: Lease, names: Sequence[str], sink: Callable[[bytes], object]
) -> None:
    """Write the archive of `names` to `sink`; NotFound before anything is written."""
    images = [_saved(table, content, lease, image_id, refs) for image_id, refs in select(table, names)]
    blobs, lists = plan_archive(images)
    writer = TarWriter(sink)
    for descriptor in blobs:
        _write_blob(content, writer, descriptor)
    for name in sorted(lists):
        writer.add_bytes(name.encode(), lists[name])
    writer.finish()


def select(table: ImageTable, names: Sequence[str]) -> list[tuple[str, list[Reference]]]:
    """Images in the order asked for, each once with all the names asked for: by id none, by repository all tags."""
    found: dict[str, list[Reference]] = {}
    for name in names:
        for image_id, reference in _select_one(table, name):
            known = found.setdefault(image_id, [])
            if reference is not None and reference not in known:
                known.append(reference)
    return list(found.items())


def _select_one(table: ImageTable, name: str) -> list[tuple[str, Reference | None]]:
    try:
        bare = parse_reference(name, default_tag="")
    except Invalid:
        return [(table.resolve(name).id, None)]
    if not bare.tag and not bare.digest:
        owned = sorted(table.names_in(bare.name).items())
        tagged: list[tuple[str, Reference | None]] = [
            (i, parse_reference(text)) for text, i in owned if "@" not in text
        ]
        if tagged:
            return [*tagged]
    named = bool(bare.tag) and not bare.digest and table.owner(bare) is not None
    return [(table.resolve(name).id, bare if named else None)]


class SavedImage(NamedTuple):
    """What to write of an image: blobs with their sizes, and the names to give it."""

    manifest: Descriptor
    config: Descriptor
    layers: Sequence[Descriptor]
    diff_ids: Sequence[str]
    references: Sequence[Reference]


def plan_archive(images: Sequence[SavedImage]) -> tuple[list[Descriptor], dict[str, bytes]]:
    """The blobs of an archive, each once, and its lists by name."""
    blobs: dict[str, Descriptor] = {}
    for image in images:
        for descriptor in (image.config, *image.layers, image.manifest):
            blobs.setdefault(descriptor.digest, descriptor)
    lists: dict[str, Any] = {
        "index.json": {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [entry for image in images for entry in _index_entries(image)],
        },
        "manifest.json": [_docker_entry(image) for image in images],
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "repositories": _repositories(images),
    }
    if not lists["repositories"]:
        del lists["repositories"]
    return list(blobs.values()), {name: msgspec.json.encode(value) for name, value in lists.items()}


def _index_entries(image: SavedImage) -> Iterable[dict[str, Any]]:
    entry = {"mediaType": image.manifest.media_type, "digest": image.manifest.digest, "size": image.manifest.size}
    if not image.references:
        yield entry
    for reference in image.references:
        yield {**entry, "annotations": {CONTAINERD_NAME: reference.canonical, REF_NAME: reference.tag}}


def _docker_entry(image: SavedImage) -> dict[str, Any]:
    sources = {
        diff_id: {"mediaType": layer.media_type, "size": layer.size, "digest": layer.digest}
        for diff_id, layer in zip(image.diff_ids, image.layers, strict=True)
    }
    return {
        "Config": blob_path(image.config.digest),
        "RepoTags": [reference.familiar for reference in image.references] or None,
        "Layers": [blob_path(layer.digest) for layer in image.layers],
        "LayerSources": sources,
    }


def _repositories(images: Sequence[SavedImage]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for image in images:
        for reference in image.references:
            if image.layers:
                top = encoded_of(image.layers[-1].digest)
                found.setdefault(reference.familiar_name, {})[reference.tag] = top
    return found


def blob_path(digest: str) -> str:
    """Where an archive keeps a blob."""
    algorithm, encoded = digest.split(":")
    return f"blobs/{algorithm}/{encoded}"


def _saved(
    table: ImageTable, content: ContentStore, lease: Lease, image_id: str, references: Sequence[Reference]
) -> SavedImage:
    image = table.image(image_id)
    for digest in (image.id, image.manifest, *(layer.digest for layer in image.layers)):
        lease.add_blob(digest)
    manifest = content.read(image.manifest, DOCUMENT_MAX_BYTES)
    media_type = decode_manifest(manifest).media_type or OCI_MANIFEST
    return SavedImage(
        manifest=Descriptor(media_type=media_type, digest=image.manifest, size=len(manifest)),
        config=Descriptor(media_type=OCI_CONFIG, digest=image.id, size=content.size(image.id)),
        layers=[
            Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.blob_bytes)
            for layer in image.layers
        ],
        diff_ids=[layer.diff_id for layer in image.layers],
        references=references,
    )


def _write_blob(content: ContentStore, writer: TarWriter, descriptor: Descriptor) -> None:
    """Copy a blob into the archive, and notice when the disk changed it."""
    hasher = new_hash(descriptor.digest.partition(":")[0])

    def chunks() -> Iterator[bytes]:
        while chunk := os.read(fd, _CHUNK):
            hasher.update(chunk)
            yield chunk

    fd = content.open(descriptor.digest)
    try:
        intact = os.fstat(fd).st_size == descriptor.size
        if intact:
            writer.add(make_entry(blob_path(descriptor.digest).encode(), size=descriptor.size), chunks())
            intact = hasher.hexdigest() == encoded_of(descriptor.digest)
    finally:
        os.close(fd)
    if not intact:
        raise Internal(
            f"blob {descriptor.digest} is damaged on disk",
            subject=descriptor.digest,
            hint="remove and load the image again",
        )
