"""Documents of OCI image-spec 1.1 and their Docker ancestors: descriptor, index, manifest, config.

Decoding is as lenient as Go's: unknown keys are ignored and `null` stands for absent in every list and map. What the
documents point to is checked: digests are well-formed, sizes are not negative. Bytes are never re-encoded: a document
is kept as the blob it came as, these types are for reading it and for writing new ones.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from bireme.errors import Invalid, Unsupported
from bireme.oci.digest import check_digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
LAYER_TYPES = frozenset({OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP})

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"

DOCUMENT_MAX_BYTES = 8 << 20
"""No manifest, index or config larger than this is read."""


class PlatformSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """image-index.md "platform"."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """descriptor.md: what a blob is, its digest and its size in bytes."""

    media_type: str = ""
    digest: str
    size: int
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    platform: PlatformSpec | None = None
    artifact_type: str = ""

    def __post_init__(self) -> None:
        check_digest(self.digest)
        if self.size < 0:
            raise Invalid("negative size in descriptor", subject=self.digest)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """manifest.md; also Docker's schema 2, which has the same shape."""

    schema_version: int = 2
    media_type: str = OCI_MANIFEST
    config: Descriptor
    layers: list[Descriptor]
    annotations: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """image-index.md; also Docker's manifest list."""

    schema_version: int = 2
    media_type: str = OCI_INDEX
    manifests: list[Descriptor]
    annotations: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET


class Healthcheck(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """Docker's extension of the config: times in nanoseconds, 0 is the default."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """config.md "config": the defaults of an instance. None is absent or null, as in Docker's inspect."""

    user: str = ""
    exposed_ports: dict[str, Any] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None
    healthcheck: Healthcheck | None = None
    on_build: list[str] | None = None
    args_escaped: bool = False


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """config.md "history", one entry per build step, bottom up; `created` is RFC 3339 text."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class RootFs(msgspec.Struct, frozen=True, kw_only=True):
    """config.md "rootfs": diff_ids bottom up."""

    type: str = "layers"
    diff_ids: list[str] | None = None


class ImageDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """config.md: the whole configuration blob, whose digest is the image's id."""

    created: str | None = None
    author: str = ""
    architecture: str = ""
    variant: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    config: ImageConfig | None = None
    rootfs: RootFs
    history: list[History] | None = None
    comment: str = ""


T = TypeVar("T")

_encoder = msgspec.json.Encoder()


_NULL_VALUES: dict[str, Any] = {"ExposedPorts": {}, "Volumes": {}, "Labels": "", "annotations": ""}


def _drop_nulls(value: Any) -> Any:
    """Go reads null as the zero value: an absent field, but a present key of the maps listed above."""
    if isinstance(value, dict):
        return {
            key: {k: _NULL_VALUES[key] if v is None else v for k, v in item.items()}
            if key in _NULL_VALUES and isinstance(item, dict)
            else _drop_nulls(item)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_drop_nulls(item) for item in value]
    return value


def _decode(data: bytes, kind: type[T], what: str) -> T:
    if len(data) > DOCUMENT_MAX_BYTES:
        raise Invalid(f"image {what} is larger than {DOCUMENT_MAX_BYTES} bytes")
    try:
        return msgspec.convert(_drop_nulls(msgspec.json.decode(data)), kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"image {what} is malformed: {error}", place=what) from error


def decode_manifest(data: bytes) -> Manifest:
    """Invalid when it is not a manifest, Unsupported for Docker's schema 1."""
    _check_version(data, "manifest")
    return _decode(data, Manifest, "manifest")


def decode_index(data: bytes) -> Index:
    """Invalid when it is not an index or manifest list."""
    _check_version(data, "index")
    return _decode(data, Index, "index")


def decode_document(data: bytes) -> ImageDocument:
    """The configuration blob; Invalid when malformed."""
    document = _decode(data, ImageDocument, "configuration")
    if document.rootfs.type != "layers":
        raise Invalid(f"unknown rootfs type {document.rootfs.type}", place="configuration")
    for diff_id in document.rootfs.diff_ids or ():
        check_digest(diff_id)
    return document


def encode(document: Manifest | Index | ImageDocument) -> bytes:
    """Compact JSON, keys in the declared order."""
    return _encoder.encode(document)


class _Versioned(msgspec.Struct, rename="camel"):
    schema_version: int = 2


def _check_version(data: bytes, what: str) -> None:
    version = _decode(data, _Versioned, what).schema_version
    if version == 1:
        raise Unsupported("Docker image format v1 and schema 1 manifests are not supported", place=what)
    if version != 2:
        raise Invalid(f"unknown schema version {version}", place=what)
