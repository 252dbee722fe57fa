"""Builds image archives: a few layers of a few files, as each program that saves images writes them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.support import tar

OCI = "application/vnd.oci.image"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layer(NamedTuple):
    """The tar archive of a layer and the blob it is stored as."""

    content: bytes
    blob: bytes

    @property
    def diff_id(self) -> str:
        return digest(self.content)


def layer(*members: bytes, pack: Callable[[bytes], bytes] | None = None) -> Layer:
    content = tar.archive(*members)
    return Layer(content, pack(content) if pack else content)


def gzipped(*members: bytes) -> Layer:
    return layer(*members, pack=lambda data: gzip.compress(data, 1, mtime=0))


def layer_of(blob: bytes) -> Layer:
    """A layer that something else saved, compressed or not."""
    return Layer(gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob, blob)


def config(layers: Sequence[Layer], **changes: Any) -> bytes:
    document = {
        "created": "2024-01-02T03:04:05Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": f"step {n}"} for n in range(len(layers))],
    }
    return json.dumps(document | changes).encode()


def blob(data: bytes) -> bytes:
    return tar.file(b"blobs/sha256/" + digest(data)[7:].encode(), data)


def _json(name: bytes, value: Any) -> bytes:
    return tar.file(name, json.dumps(value).encode())


def docker(layers: Sequence[Layer], tags: Sequence[str] = ("test:1",), document: bytes = b"") -> bytes:
    """As Docker 25 and later, without the OCI half."""
    document = document or config(layers)
    path = "blobs/sha256/{}".format
    entry = {
        "Config": path(digest(document)[7:]),
        "RepoTags": list(tags) or None,
        "Layers": [path(digest(one.blob)[7:]) for one in layers],
    }
    return tar.archive(blob(document), *(blob(one.blob) for one in layers), _json(b"manifest.json", [entry]))


def legacy(layers: Sequence[Layer], tags: Sequence[str] = ("test:1",), document: bytes = b"") -> bytes:
    """As Docker before 25: a directory per layer, the second of two equal ones as a link."""
    document = document or config(layers)
    name = digest(document)[7:] + ".json"
    members, paths = [], []
    seen: dict[bytes, bytes] = {}
    for number, one in enumerate(layers):
        directory = b"%064d" % number
        members += [tar.directory(directory + b"/"), tar.file(directory + b"/VERSION", b"1.0")]
        members.append(tar.file(directory + b"/json", b'{"id":"x"}'))
        path = directory + b"/layer.tar"
        if one.blob in seen:
            members.append(tar.symlink(path, b"../" + seen[one.blob]))
        else:
            members.append(tar.file(path, one.blob))
        seen.setdefault(one.blob, path)
        paths.append(path.decode())
    entry = {"Config": name, "RepoTags": list(tags), "Layers": paths}
    return tar.archive(
        *members,
        tar.file(name.encode(), document),
        _json(b"manifest.json", [entry]),
        _json(b"repositories", {"test": {"1": "0" * 64}}),
    )


def descriptor(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data), **more}


def manifest(layers: Sequence[Layer], document: bytes, kind: str = f"{OCI}.layer.v1.tar+gzip") -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": descriptor(document, f"{OCI}.config.v1+json"),
            "layers": [descriptor(one.blob, kind) for one in layers],
        }
    ).encode()


def layout(
    layers: Sequence[Layer],
    annotations: dict[str, str] | None = None,
    *,
    platforms: Sequence[str] = (),
    document: bytes = b"",
) -> bytes:
    """An OCI layout; with `platforms` its index leads to an inner index with one manifest per architecture."""
    document = document or config(layers)
    blobs = [document, *(one.blob for one in layers)]
    if platforms:
        inner = []
        for architecture in platforms:
            own = config(layers, architecture=architecture)
            made = manifest(layers, own)
            blobs += [own, made]
            platform = {"os": "linux", "architecture": architecture}
            inner.append(descriptor(made, f"{OCI}.manifest.v1+json", platform=platform))
        top = json.dumps({"schemaVersion": 2, "manifests": inner}).encode()
        entry = descriptor(top, f"{OCI}.index.v1+json", annotations=annotations or {})
    else:
        top = manifest(layers, document)
        entry = descriptor(top, f"{OCI}.manifest.v1+json", annotations=annotations or {})
    unique = {digest(data): data for data in [*blobs, top]}
    return tar.archive(
        *(blob(data) for data in unique.values()),
        _json(b"oci-layout", {"imageLayoutVersion": "1.0.0"}),
        _json(b"index.json", {"schemaVersion": 2, "manifests": [entry]}),
    )
