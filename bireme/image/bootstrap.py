"""Images from the distribution's packages, where no registry is at hand.

    busybox             Debian's static busybox, one hard link per applet, a handful of directories and files
    debian:bookworm     a minimal Debian as mmdebstrap or debootstrap make it

A builder writes one tar archive; it is compressed and hashed on the way into the content store, then unpacked and
recorded exactly as a loaded image. Times are fixed, so the same packages give the same image id.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bireme.errors import NotFound
from bireme.image import busybox, debian
from bireme.image.install import Recipe
from bireme.image.model import Image, OnProgress, Progress, ignore_progress
from bireme.image.store import ImageStore
from bireme.oci.digest import SHA256, new_hash
from bireme.oci.image_spec import History, ImageConfig, ImageDocument, RootFs, encode
from bireme.oci.platform import from_machine
from bireme.oci.reference import parse_reference
from bireme.storage.codec import GzipEncoder
from bireme.storage.gc import Lease

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Sink = Callable[[bytes], object]
Say = Callable[[str], None]


class Builder(NamedTuple):
    """How to make one image: `write` sends a tar archive to a sink, says what it is doing, and returns the image's time
    (of the newest package in it, nanoseconds)."""

    reference: str
    command: tuple[str, ...]
    created_by: str
    write: Callable[[Sink, Say], int]


_BUILDERS = {
    "busybox": Builder("busybox:latest", ("sh",), "bireme bootstrap busybox", busybox.write_root),
    "debian:bookworm": Builder(
        "debian:bookworm", ("bash",), "bireme bootstrap debian:bookworm", debian.writer("bookworm")
    ),
}


def names() -> Sequence[str]:
    """What `bootstrap` can make."""
    return tuple(_BUILDERS)


def bootstrap(store: ImageStore, name: str, progress: OnProgress = ignore_progress) -> Image:
    """Make an image and name it; blocks for seconds to minutes. NotFound for an unknown name, Unavailable (with the
    remedy) when a program or package is missing."""
    builder = _BUILDERS.get(name.removesuffix(":latest"))
    if builder is None:
        raise NotFound(f"cannot bootstrap {name}", subject=name, hint=f"known: {', '.join(_BUILDERS)}")
    with store.lease() as lease:
        layer = _store_layer(store, lease, builder, lambda action: progress(Progress(name, action)))
        document = encode(_document(builder, layer))
        recipe = Recipe(document, [layer.digest], [parse_reference(builder.reference)])
        return store.install(lease, recipe, progress)


class _Layer(NamedTuple):
    digest: str
    diff_id: str
    created_ns: int


def _store_layer(store: ImageStore, lease: Lease, builder: Builder, say: Say) -> _Layer:
    content_hash = new_hash()
    encoder = GzipEncoder()
    with store.content.begin(lease.add_blob) as ingest:

        def sink(data: bytes) -> None:
            content_hash.update(data)
            if packed := encoder.encode(data):
                ingest.write(packed)

        created_ns = builder.write(sink, say)
        ingest.write(encoder.finish())
        blob = ingest.commit()
    return _Layer(blob.digest, f"{SHA256}:{content_hash.hexdigest()}", created_ns)


def _document(builder: Builder, layer: _Layer) -> ImageDocument:
    platform = from_machine(os.uname().machine)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(layer.created_ns // 1_000_000_000))
    return ImageDocument(
        created=created,
        architecture=platform.architecture,
        variant=platform.variant,
        os=platform.os,
        config=ImageConfig(env=[_PATH], cmd=list(builder.command)),
        rootfs=RootFs(diff_ids=[layer.diff_id]),
        history=[History(created=created, created_by=builder.created_by)],
    )
