from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bireme.errors import BiremeError, Invalid, NotFound
from bireme.image.archive import ArchiveReader
from bireme.image.install import Recipe
from bireme.image.model import ignore_progress
from bireme.oci.platform import Platform
from bireme.storage.content import ContentStore
from bireme.storage.gc import Collector, Needed
from bireme.storage.overlay import OverlaySnapshotter
from tests.support import image, tar

LAYERS = [image.layer(tar.file(b"a", b"1")), image.gzipped(tar.file(b"b", b"2"))]
DOCUMENT = image.config(LAYERS)
BLOBS = [image.digest(one.blob) for one in LAYERS]


def read(directory: Path, data: bytes, most: int = 1 << 20) -> list[Recipe]:
    content = ContentStore(str(directory / "content"))
    snapshotter = OverlaySnapshotter(str(directory / "snapshots"))
    collector = Collector(content, snapshotter, lambda: Needed(frozenset(), frozenset()), "unpack-")
    with collector.lease() as lease:
        return ArchiveReader(content, lease, Platform("linux", "amd64")).read(tar.reader(data, most), ignore_progress)


@pytest.mark.parametrize("most", [1, 1 << 20])
@pytest.mark.parametrize("make", [image.docker, image.legacy])
def test_docker_archives(tmp_path: Path, make: object, most: int) -> None:
    assert callable(make)
    (recipe,) = read(tmp_path, make(LAYERS, ["x:1", "reg.example/y"]), most)
    assert recipe.document == DOCUMENT
    assert list(recipe.layers) == BLOBS
    assert [reference.familiar for reference in recipe.references] == ["x:1", "reg.example/y:latest"]


@pytest.mark.parametrize(
    ("annotations", "names"),
    [
        ({"io.containerd.image.name": "docker.io/library/x:1"}, ["x:1"]),
        ({"org.opencontainers.image.ref.name": "reg.example/x:1"}, ["reg.example/x:1"]),
        ({"org.opencontainers.image.ref.name": "latest"}, []),
        ({}, []),
    ],
)
def test_names_of_a_layout(tmp_path: Path, annotations: dict[str, str], names: list[str]) -> None:
    (recipe,) = read(tmp_path, image.layout(LAYERS, annotations))
    assert [reference.familiar for reference in recipe.references] == names
    assert recipe.manifest == image.manifest(LAYERS, DOCUMENT)


def test_the_platform_decides(tmp_path: Path) -> None:
    (recipe,) = read(tmp_path, image.layout(LAYERS, platforms=["s390x", "amd64"]))
    assert recipe.document == image.config(LAYERS, architecture="amd64")
    with pytest.raises(NotFound):
        read(tmp_path, image.layout(LAYERS, platforms=["s390x"]))


def test_a_descriptor_must_tell_the_size(tmp_path: Path) -> None:
    data = image.layout(LAYERS)
    size = b'"size": %d' % len(image.manifest(LAYERS, DOCUMENT))
    with pytest.raises(Invalid, match="expected"):
        read(tmp_path, data.replace(size, size[:-1] + (b"0" if size[-1:] != b"0" else b"1")))


def test_not_every_tar_is_an_image(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="does not contain") as caught:
        read(tmp_path, tar.archive(tar.file(b"etc/passwd", b"x")))
    assert "imported" in caught.value.hint


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([image.docker(LAYERS), image.legacy(LAYERS), image.layout(LAYERS)]), st.data())
def test_damage_is_refused_or_harmless(tmp_path: Path, archive: bytes, data: st.DataObject) -> None:
    raw = bytearray(archive)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
        start = at - at % 512
        block = raw[start : start + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            raw[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    try:
        for recipe in read(tmp_path, bytes(raw)):
            assert isinstance(recipe.document, bytes)
    except BiremeError:
        pass
