from __future__ import annotations

from pathlib import Path

import pytest

from bireme.storage.content import ContentStore
from bireme.storage.gc import Collector, Needed
from bireme.storage.overlay import OverlaySnapshotter
from tests.suites.snapshotter import fill


class Scene:
    def __init__(self, root: Path) -> None:
        self.content = ContentStore(str(root / "content"))
        self.snapshotter = OverlaySnapshotter(str(root / "snapshots"))
        self.needed = Needed(frozenset(), frozenset())
        self.collector = Collector(self.content, self.snapshotter, lambda: self.needed, "unpack-")

    def names(self) -> set[str]:
        return {info.name for info in self.snapshotter.list()}

    def blobs(self) -> set[str]:
        return {blob.digest for blob in self.content.list()}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path)
    fill(scene.snapshotter, "k", None, "a")
    fill(scene.snapshotter, "k", "a", "b")
    fill(scene.snapshotter, "k", "b", "c")
    return scene


def put(scene: Scene, data: bytes) -> str:
    return scene.content.put(lambda digest: None, data).digest


def test_nothing_needed_nothing_kept(scene: Scene) -> None:
    blob = put(scene, b"data")
    collected = scene.collector.collect()
    assert (collected.blobs, set(collected.snapshots), collected.freed_bytes) == ((blob,), {"a", "b", "c"}, 4)
    assert scene.names() == scene.blobs() == set()


def test_what_records_need_stays_with_its_parents(scene: Scene) -> None:
    kept, gone = put(scene, b"kept"), put(scene, b"gone")
    scene.needed = Needed(frozenset({kept}), frozenset({"b"}))
    collected = scene.collector.collect()
    assert (collected.blobs, collected.snapshots) == ((gone,), ("c",))
    assert (scene.names(), scene.blobs()) == ({"a", "b"}, {kept})


def test_instances_keep_their_layers_without_an_image(scene: Scene) -> None:
    scene.snapshotter.prepare("instance", "b")
    scene.snapshotter.prepare("unpack-dead", "c")
    scene.collector.collect()
    assert scene.names() == {"a", "b", "instance"}


def test_leases_hold_what_is_under_way(scene: Scene) -> None:
    with scene.collector.lease() as lease:
        blob = scene.content.put(lease.add_blob, b"new").digest
        lease.add_snapshot("c")
        lease.add_snapshot("unpack-mine")
        lease.add_snapshot("later")
        scene.snapshotter.prepare("unpack-mine", None)
        assert scene.collector.collect().blobs == ()
        assert (scene.names(), scene.blobs()) == ({"a", "b", "c", "unpack-mine"}, {blob})
    scene.collector.collect()
    assert scene.names() == scene.blobs() == set()


def test_a_lease_ends_with_its_error(scene: Scene) -> None:
    def fail() -> None:
        with scene.collector.lease() as lease:
            lease.add_snapshot("c")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    scene.collector.collect()
    assert scene.names() == set()


def test_leftovers_of_the_dead_are_swept(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "content" / "ingest" / "dead").write_bytes(b"half")
    (tmp_path / "snapshots" / "removed" / "dead").mkdir()
    scene.collector.collect()
    assert not list((tmp_path / "content" / "ingest").iterdir())
    assert not list((tmp_path / "snapshots" / "removed").iterdir())
