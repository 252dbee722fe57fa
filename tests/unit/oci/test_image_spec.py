from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.errors import BiremeError, Invalid, Unsupported
from bireme.oci import image_spec
from bireme.oci.digest import digest_of

DIGEST = digest_of(b"x")
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": image_spec.OCI_MANIFEST,
    "config": {"mediaType": image_spec.OCI_CONFIG, "digest": DIGEST, "size": 1},
    "layers": [{"mediaType": image_spec.OCI_LAYER_GZIP, "digest": DIGEST, "size": 1, "annotations": None}],
}


def test_manifest_round_trip() -> None:
    manifest = image_spec.decode_manifest(json.dumps(MANIFEST).encode())
    assert manifest.config.digest == DIGEST
    assert manifest.layers[0].annotations is None
    again = json.loads(image_spec.encode(manifest))
    assert again["config"] == MANIFEST["config"]
    assert "annotations" not in again


@pytest.mark.parametrize(
    "change",
    [
        {"config": None},
        {"config": {"digest": "sha256:zz", "size": 1}},
        {"config": {"digest": DIGEST, "size": -1}},
        {"config": {"digest": DIGEST, "size": "1"}},
        {"layers": "x"},
        {"schemaVersion": 3},
    ],
)
def test_bad_manifests(change: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        image_spec.decode_manifest(json.dumps({**MANIFEST, **change}).encode())


def test_old_and_huge_documents() -> None:
    with pytest.raises(Unsupported):
        image_spec.decode_manifest(b'{"schemaVersion": 1}')
    with pytest.raises(Invalid, match="larger"):
        image_spec.decode_document(b" " * (image_spec.DOCUMENT_MAX_BYTES + 1))
    with pytest.raises(Invalid):
        image_spec.decode_document(b"[" * 100_000)


def test_index_platforms() -> None:
    entry = {"digest": DIGEST, "size": 1, "platform": {"os": "linux", "architecture": "arm64", "os.version": "1"}}
    index = image_spec.decode_index(json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
    assert index.manifests[0].platform is not None
    assert index.manifests[0].platform.os_version == "1"


def test_configuration_reads_nulls_as_go_does() -> None:
    document = image_spec.decode_document(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "unknown": {"a": None},
                "config": {
                    "Cmd": None,
                    "Entrypoint": ["/x"],
                    "Volumes": {"/data": None},
                    "ExposedPorts": {"80/tcp": {}},
                    "Labels": {"a": None},
                    "Healthcheck": {"Test": ["NONE"], "StartPeriod": 5},
                },
                "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
                "history": [{"created_by": "x", "empty_layer": True}],
            }
        ).encode()
    )
    config = document.config
    assert config is not None
    assert config.cmd is None
    assert config.volumes == {"/data": {}}
    assert config.labels == {"a": ""}
    assert config.healthcheck is not None
    assert config.healthcheck.start_period == 5
    assert image_spec.decode_document(image_spec.encode(document)) == document


def test_bad_diff_ids_are_refused() -> None:
    with pytest.raises(Invalid):
        image_spec.decode_document(b'{"rootfs":{"type":"layers","diff_ids":["../../x"]}}')


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_garbage_is_refused_with_our_errors(data: bytes | str) -> None:
    raw = data.encode() if isinstance(data, str) else data
    for decode in (image_spec.decode_manifest, image_spec.decode_index, image_spec.decode_document):
        with pytest.raises(BiremeError):
            decode(raw)
