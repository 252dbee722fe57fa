"""Reading image archives: what `docker save` writes, and OCI layouts in a tar.

    manifest.json                       Docker's list: configuration, names and layers of each image
    index.json, oci-layout              the same as an OCI layout
    blobs/sha256/HEX                    what both point to (Docker 25 and later, OCI)
    HEX.json, HEX/layer.tar, HEX.tar    what older Docker, podman and skopeo point to instead

Reading takes one pass, so it works on a pipe: every file becomes a blob of the content store under a lease (one named
by its digest must have it), then the lists say which of them are images. save.py writes the first three.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from bireme.errors import Invalid, NotFound, Unsupported
from bireme.image.install import Recipe
from bireme.image.model import OnProgress, Progress
from bireme.oci.digest import SHA256, check_digest
from bireme.oci.image_spec import (
    CONTAINERD_NAME,
    DOCUMENT_MAX_BYTES,
    INDEX_TYPES,
    LAYER_TYPES,
    MANIFEST_TYPES,
    REF_NAME,
    Descriptor,
    decode_index,
    decode_manifest,
)
from bireme.oci.platform import Platform, can_run, normalize
from bireme.oci.reference import Reference, parse_reference
from bireme.storage.content import ContentStore
from bireme.storage.decode import decoded
from bireme.storage.gc import Lease
from bireme.storage.layer import shown, split
from bireme.storage.tar import Entry, Kind, TarReader

_LISTS = ("manifest.json", "index.json", "oci-layout", "repositories")
_IGNORED = ("/VERSION", "/json")
_FILES_MAX = 20_000
_NESTING_MAX = 3
_PROGRESS_BYTES = 4 << 20


class _DockerImage(msgspec.Struct, rename="pascal"):
    """One entry of manifest.json."""

    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = None


class _File(NamedTuple):
    digest: str
    size_bytes: int


class ArchiveReader:
    """Reads one archive into the content store and says what images it holds."""

    def __init__(self, content: ContentStore, lease: Lease, platform: Platform) -> None:
        self._content = content
        self._lease = lease
        self._platform = platform
        self._files: dict[str, _File] = {}
        self._aliases: dict[str, str] = {}
        self._lists: dict[str, bytes] = {}

    def read(self, read: Callable[[int], bytes], progress: OnProgress) -> list[Recipe]:
        """The recipes of all images of an archive, plain or compressed, that `read(n)` delivers. Invalid when bad."""
        with decoded(read) as chunks:
            self._members(TarReader(chunks), progress)
        return self._recipes()

    def _members(self, archive: TarReader, progress: OnProgress) -> None:
        for entry in archive:
            if archive.entries > _FILES_MAX:
                raise Invalid(f"archive has more than {_FILES_MAX} members")
            path = _path(entry)
            if entry.kind is Kind.FILE:
                self._file(path, entry, archive, progress)
            elif entry.kind in (Kind.SYMLINK, Kind.LINK):
                self._alias(path, entry)
            elif entry.kind is not Kind.DIRECTORY:
                raise Invalid(f"archive has a {entry.kind.value}", subject=path[:200])

    def _file(self, path: str, entry: Entry, archive: TarReader, progress: OnProgress) -> None:
        if entry.extents is not None:
            raise Invalid("archive has a sparse file", subject=path[:200])
        if path.endswith(_IGNORED):
            return
        if path in _LISTS:
            if entry.size > DOCUMENT_MAX_BYTES:
                raise Invalid(f"{path} is larger than {DOCUMENT_MAX_BYTES} bytes", subject=path[:200])
            self._lists[path] = b"".join(archive.data())
            return
        parts = path.split("/")
        promised = check_digest(":".join(parts[1:])) if len(parts) == 3 and parts[0] == "blobs" else ""
        name = parts[-1][:12] if promised else path[:12]
        told = 0
        with self._content.begin(self._lease.add_blob, promised, entry.size) as ingest:
            for view in archive.data():
                ingest.write(view)
                if ingest.size_bytes - told >= _PROGRESS_BYTES:
                    told = ingest.size_bytes
                    progress(Progress(name, "Reading", told, entry.size))
            self._files[path] = _File(*ingest.commit())

    def _alias(self, path: str, entry: Entry) -> None:
        target = entry.target.decode("utf-8", "backslashreplace")
        if entry.kind is Kind.SYMLINK:
            target = posixpath.join(posixpath.dirname(path), target)
        target = posixpath.normpath(target)
        if target.startswith(("/", "../")) or target == "..":
            raise Invalid("archive has a link that leads out of it", subject=path[:200])
        self._aliases[path] = target

    def _find(self, path: str) -> _File:
        steps = 0
        path = posixpath.normpath(path)
        while path not in self._files and path in self._aliases and steps < _FILES_MAX:
            path, steps = self._aliases[path], steps + 1
        if path not in self._files:
            raise Invalid(f"archive lacks {path[:200]}, which it refers to", subject=path[:200])
        return self._files[path]

    def _document(self, digest: str) -> bytes:
        return self._content.read(digest, DOCUMENT_MAX_BYTES)

    def _recipes(self) -> list[Recipe]:
        if "manifest.json" in self._lists:
            return [self._docker_recipe(image) for image in _decode_docker(self._lists["manifest.json"])]
        if "index.json" in self._lists:
            return list(self._layout_recipes())
        raise Invalid(
            "invalid archive: does not contain a manifest.json or index.json",
            hint="is it a filesystem archive? those are imported, not loaded",
        )

    def _docker_recipe(self, image: _DockerImage) -> Recipe:
        document = self._document(self._find(image.config).digest)
        layers = [self._find(path).digest for path in image.layers or ()]
        references = [parse_reference(tag) for tag in image.repo_tags or ()]
        return Recipe(document, layers, references)

    def _layout_recipes(self) -> Iterator[Recipe]:
        index = decode_index(self._lists["index.json"])
        if not index.manifests:
            raise Invalid("archive holds no image")
        for descriptor in index.manifests:
            found = self._manifest(descriptor, 0)
            if found is None:
                raise NotFound(f"archive has no image for {self._platform}", subject=str(self._platform))
            yield self._layout_recipe(found, _references(descriptor.annotations or {}))

    def _manifest(self, descriptor: Descriptor, depth: int) -> bytes | None:
        """The manifest that a descriptor leads to, through indexes by platform; None when none fits."""
        if descriptor.media_type in INDEX_TYPES:
            if depth == _NESTING_MAX:
                raise Invalid("image indexes are nested too deeply")
            inner = decode_index(self._document(self._blob(descriptor)))
            for candidate in inner.manifests:
                if self._fits(candidate) and (found := self._manifest(candidate, depth + 1)) is not None:
                    return found
            return None
        if descriptor.media_type not in MANIFEST_TYPES:
            raise Unsupported(f"unsupported media type {descriptor.media_type[:200]}", subject=descriptor.digest)
        return self._document(self._blob(descriptor))

    def _fits(self, descriptor: Descriptor) -> bool:
        platform = descriptor.platform
        if platform is None:
            return descriptor.digest in self._lease.blobs
        image = normalize(platform.os, platform.architecture, platform.variant)
        return can_run(self._platform, image) and descriptor.digest in self._lease.blobs

    def _layout_recipe(self, manifest: bytes, references: Sequence[Reference]) -> Recipe:
        decoded = decode_manifest(manifest)
        for layer in decoded.layers:
            if layer.media_type not in LAYER_TYPES:
                raise Unsupported(f"unsupported layer type {layer.media_type[:200]}", subject=layer.digest)
        layers = [self._blob(layer) for layer in decoded.layers]
        return Recipe(self._document(self._blob(decoded.config)), layers, references, manifest)

    def _blob(self, descriptor: Descriptor) -> str:
        """The digest of a blob that came with this archive and has the size its descriptor says."""
        algorithm, encoded = descriptor.digest.split(":")
        file = self._find(f"blobs/{algorithm}/{encoded}")
        if file.size_bytes != descriptor.size:
            raise Invalid(f"blob has {file.size_bytes} bytes, expected {descriptor.size}", subject=descriptor.digest)
        if algorithm != SHA256:
            raise Unsupported(f"images by {algorithm} digests are not supported", subject=descriptor.digest)
        return file.digest


def _path(entry: Entry) -> str:
    steps = split(entry.name)
    try:
        return b"/".join(steps).decode()
    except UnicodeDecodeError:
        raise Invalid("archive has a member whose name is not UTF-8", subject=shown(entry.name)) from None


def _decode_docker(data: bytes) -> list[_DockerImage]:
    try:
        images = msgspec.json.decode(data, type=list[_DockerImage])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"manifest.json is malformed: {error}") from error
    if not images:
        raise Invalid("archive holds no image")
    return images


def _references(annotations: dict[str, str]) -> list[Reference]:
    """containerd and Docker write the whole name, podman and skopeo may write it or only a tag as the ref name."""
    full = annotations.get(CONTAINERD_NAME)
    if full:
        return [parse_reference(full)]
    name = annotations.get(REF_NAME, "")
    if any(mark in name for mark in "/:"):
        return [parse_reference(name)]
    return []
