"""Images made of what is on this machine: of the changes of an instance (commit), of a root in an archive (import).

Both store one layer, compressed on its way, and end as every image does: unpacked, recorded, durable (install.py). A
failure leaves nothing. All functions block.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bireme.image.install import Recipe
from bireme.image.model import Image, OnProgress, Progress, ignore_progress
from bireme.image.store import ImageStore
from bireme.oci.digest import SHA256, new_hash
from bireme.oci.image_spec import History, ImageConfig, ImageDocument, RootFs, encode
from bireme.oci.platform import Platform
from bireme.oci.reference import Reference
from bireme.storage.codec import GzipEncoder
from bireme.storage.decode import decoded
from bireme.storage.gc import Lease

_CHUNK = 1 << 20
_PROGRESS_BYTES = 4 << 20

Diff = Callable[[int], Mapping[str, Any]]
"""Writes the changes of an instance as a compressed layer to a descriptor, which stays the caller's; the worker's
answer (files_worker.py, "diff")."""


class About(NamedTuple):
    """What an image says of itself, and the name it gets."""

    config: ImageConfig
    reference: Reference | None = None
    author: str = ""
    comment: str = ""
    created_by: str = ""


def commit(store: ImageStore, parent: Image, diff: Diff, about: About) -> Image:
    """`parent` with the changes of an instance on top."""
    with store.lease() as lease:
        for layer in parent.layers:
            lease.add_blob(layer.digest)
        for chain_id in parent.chain_ids:
            lease.add_snapshot(chain_id)
        digest, answer = _store_changes(store, lease, diff)
        layers = [layer.digest for layer in parent.layers]
        diff_ids = [layer.diff_id for layer in parent.layers]
        if answer["changes"]:
            layers.append(digest)
            diff_ids.append(answer["diff_id"])
        step = _history(about, empty=not answer["changes"])
        document = ImageDocument(
            created=step.created,
            author=about.author,
            architecture=parent.architecture,
            variant=parent.variant,
            os=parent.os,
            config=about.config,
            rootfs=RootFs(diff_ids=diff_ids),
            history=[*(parent.document.history or ()), step],
            comment=about.comment,
        )
        return store.install(lease, Recipe(encode(document), layers, _names(about)))


def import_root(
    store: ImageStore,
    read: Callable[[int], bytes],
    platform: Platform,
    about: About,
    progress: OnProgress = ignore_progress,
) -> Image:
    """An image of one layer: the archive, plain or compressed, that `read(n)` delivers."""
    try:
        with store.lease() as lease:
            digest, diff_id = _store_archive(store, lease, read, progress)
            step = _history(about, empty=False)
            document = ImageDocument(
                created=step.created,
                architecture=platform.architecture,
                variant=platform.variant,
                os=platform.os,
                config=about.config,
                rootfs=RootFs(diff_ids=[diff_id]),
                history=[step],
                comment=about.comment,
            )
            return store.install(lease, Recipe(encode(document), [digest], _names(about)))
    except BaseException:
        store.collect()
        raise


def _names(about: About) -> tuple[Reference, ...]:
    return (about.reference,) if about.reference is not None else ()


def _history(about: About, *, empty: bool) -> History:
    now_ns = time.time_ns()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 10**9))
    return History(
        created=f"{whole}.{now_ns % 10**9:09d}Z",
        created_by=about.created_by,
        author=about.author,
        comment=about.comment,
        empty_layer=empty,
    )


def _store_changes(store: ImageStore, lease: Lease, diff: Diff) -> tuple[str, Mapping[str, Any]]:
    """The worker writes into a pipe, this thread stores what comes out; the digest and the worker's answer."""
    reader, writer = os.pipe()
    outcome: list[Mapping[str, Any] | BaseException] = []

    def work() -> None:
        try:
            outcome.append(diff(writer))
        except BaseException as error:
            outcome.append(error)
        finally:
            os.close(writer)

    thread = threading.Thread(target=work, name="commit", daemon=True)
    thread.start()
    try:
        with store.content.begin(lease.add_blob) as ingest:
            while chunk := os.read(reader, _CHUNK):
                ingest.write(chunk)
            thread.join()
            answer = outcome[0]
            if isinstance(answer, BaseException):
                raise answer
            return ingest.commit().digest, answer
    finally:
        os.close(reader)
        thread.join()


def _store_archive(
    store: ImageStore, lease: Lease, read: Callable[[int], bytes], progress: OnProgress
) -> tuple[str, str]:
    hasher, encoder = new_hash(), GzipEncoder()
    size = told = 0
    with decoded(read) as chunks, store.content.begin(lease.add_blob) as ingest:
        while chunk := chunks():
            hasher.update(chunk)
            size += len(chunk)
            if packed := encoder.encode(chunk):
                ingest.write(packed)
            if size - told >= _PROGRESS_BYTES:
                told = size
                progress(Progress("", "Importing", size))
        ingest.write(encoder.finish())
        blob = ingest.commit()
    return blob.digest, f"{SHA256}:{hasher.hexdigest()}"
