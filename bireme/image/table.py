"""All images of this engine: in memory for every question, in the database for the next engine.

A change is committed durably before it is visible here. Changes wait for each other and for the disk; questions wait
for neither, since the engine asks them on its event loop. References are kept in canonical spelling; those with a
digest tell where an image was pulled from, those with a tag are its names.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Sequence

import msgspec

from bireme.errors import Conflict, Internal, Invalid, NotFound
from bireme.image.model import Image, ImageRecord
from bireme.oci.digest import chain_ids, is_digest
from bireme.oci.image_spec import ImageConfig, decode_document
from bireme.oci.reference import Reference, parse_reference
from bireme.storage.db import Database, Statement
from bireme.storage.gc import Needed

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ImageRecord)
_HEX = re.compile(r"[0-9a-f]{1,64}\Z")


class ImageTable:
    """Lookup, naming and recording. Every method may be called from any thread."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._changing = threading.RLock()
        self._lock = threading.RLock()
        self._records: dict[str, ImageRecord] = {}
        self._names: dict[str, str] = {}
        self._cache: dict[str, Image] = {}
        for row in db.query("select record from images"):
            record = _decode(row[0])
            self._records[record.id] = record
        for name, image_id in db.query("select name, image_id from image_references"):
            self._names[str(name)] = str(image_id)

    def list(self) -> list[Image]:
        """Every image, newest first."""
        with self._lock:
            images = [self.image(image_id) for image_id in self._records]
        return sorted(images, key=lambda image: image.created, reverse=True)

    def image(self, image_id: str) -> Image:
        """By full id; NotFound."""
        with self._lock:
            if image_id not in self._records:
                raise _missing(image_id)
            if image_id not in self._cache:
                self._cache[image_id] = self._build(self._records[image_id])
            return self._cache[image_id]

    def resolve(self, text: str) -> Image:
        """By id, reference, or unique id prefix, in Docker's order; NotFound with Docker's words."""
        with self._lock:
            if is_digest(text) or is_digest(f"sha256:{text}"):
                return self.image(text if ":" in text else f"sha256:{text}")
            shown, invalid = text, None
            try:
                reference = parse_reference(text)
                shown = reference.familiar
                if (image_id := self._names.get(self._key(reference))) is not None:
                    return self.image(image_id)
            except Invalid as error:
                invalid = error
            prefix = text.removeprefix("sha256:")
            if _HEX.match(prefix):
                return self.image(self._by_prefix(prefix, text))
            if invalid is not None:
                raise invalid
            raise _missing(shown)

    def names_of(self, image_id: str) -> tuple[Reference, ...]:
        """The references of an image, with tags and with digests."""
        with self._lock:
            return tuple(parse_reference(name) for name, owner in sorted(self._names.items()) if owner == image_id)

    def names_in(self, repository: str) -> dict[str, str]:
        """Canonical references of a repository (docker.io/library/busybox) and the ids they stand for."""
        with self._lock:
            return {name: owner for name, owner in self._names.items() if parse_reference(name).name == repository}

    def owner(self, reference: Reference) -> str | None:
        """The id a reference stands for."""
        with self._lock:
            return self._names.get(self._key(reference))

    def insert(self, record: ImageRecord, references: Iterable[Reference]) -> Image:
        """Record an image (known already: only its names) and point references at it, in one durable commit."""
        names = [self._key(reference) for reference in references]
        statements: list[Statement] = [
            (
                "insert into images (id, record, added_ns) values (?, ?, ?) on conflict (id) do nothing",
                (record.id, _encoder.encode(record), time.time_ns()),
            )
        ]
        with self._changing:
            self._commit([*statements, *(_name_statement(name, record.id) for name in names)])
            with self._lock:
                self._records.setdefault(record.id, record)
                self._point(names, record.id)
                return self.image(record.id)

    def tag(self, image_id: str, reference: Reference) -> None:
        """Point a reference at an image, away from whatever it stood for."""
        name = self._key(reference)
        with self._changing:
            self.image(image_id)
            self._commit([_name_statement(name, image_id)])
            with self._lock:
                self._point([name], image_id)

    def untag(self, references: Iterable[Reference]) -> None:
        """Forget references; absent ones are fine."""
        names = [self._key(reference) for reference in references]
        with self._changing:
            self._commit([("delete from image_references where name = ?", (name,)) for name in names])
            with self._lock:
                for name in names:
                    self._cache.pop(self._names.pop(name, ""), None)

    def delete(self, image_id: str) -> None:
        """Forget an image that has no references; Conflict when it has."""
        with self._changing:
            if self.names_of(image_id):
                raise Conflict("image is referenced", subject=image_id)
            self._commit([("delete from images where id = ?", (image_id,))])
            with self._lock:
                self._records.pop(image_id, None)
                self._cache.pop(image_id, None)

    def needed(self) -> Needed:
        """What the records need of the content store and the snapshotter."""
        with self._lock:
            blobs: set[str] = set()
            snapshots: set[str] = set()
            for record in self._records.values():
                blobs.update((record.id, record.manifest), (layer.digest for layer in record.layers))
                snapshots.update(chain_ids([layer.diff_id for layer in record.layers])[-1:])
            return Needed(frozenset(blobs), frozenset(snapshots))

    def known_layer(self, digest: str, diff_id: str) -> int | None:
        """Bytes of files of a layer some image has with exactly this blob and content; None when none has."""
        with self._lock:
            for record in self._records.values():
                for layer in record.layers:
                    if layer.digest == digest and layer.diff_id == diff_id:
                        return layer.files_bytes
        return None

    def _by_prefix(self, prefix: str, text: str) -> str:
        found = [image_id for image_id in self._records if image_id.startswith(f"sha256:{prefix}")]
        if len(found) > 1:
            raise Invalid(f"multiple IDs found with provided prefix: {text}", subject=text)
        if not found:
            shown = text if text.startswith("sha256:") else f"{text}:latest"
            raise _missing(shown)
        return found[0]

    def _key(self, reference: Reference) -> str:
        """A tag beside a digest says nothing: the digest decides."""
        return reference._replace(tag="").canonical if reference.digest else reference.canonical

    def _point(self, names: Sequence[str], image_id: str) -> None:
        for name in names:
            self._cache.pop(self._names.get(name, ""), None)
            self._names[name] = image_id
        self._cache.pop(image_id, None)

    def _commit(self, statements: Sequence[Statement]) -> None:
        self._db.submit(statements).result()

    def _build(self, record: ImageRecord) -> Image:
        document = decode_document(record.document.encode())
        references = self.names_of(record.id)
        chain = chain_ids([layer.diff_id for layer in record.layers])
        return Image(
            id=record.id,
            manifest=record.manifest,
            references=tuple(r.familiar for r in references if not r.digest),
            repo_digests=tuple(r.familiar for r in references if r.digest),
            created=document.created or "",
            size=sum(layer.files_bytes for layer in record.layers),
            architecture=document.architecture,
            variant=document.variant,
            os=document.os,
            author=document.author,
            comment=document.comment,
            config=document.config or ImageConfig(),
            document=document,
            layers=record.layers,
            chain_ids=tuple(chain),
            chain_id=chain[-1] if chain else "",
        )


def _name_statement(name: str, image_id: str) -> Statement:
    return (
        "insert into image_references (name, image_id) values (?, ?)"
        " on conflict (name) do update set image_id = excluded.image_id",
        (name, image_id),
    )


def _decode(blob: object) -> ImageRecord:
    if not isinstance(blob, bytes | str):
        raise Internal("image record of an unknown kind")
    return _decoder.decode(blob)


def _missing(text: str) -> NotFound:
    return NotFound(f"No such image: {text}", subject=text)
