from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bireme.errors import NotFound
from bireme.image.save import SavedImage, plan_archive, select
from bireme.image.table import ImageTable
from bireme.oci.digest import digest_of
from bireme.oci.image_spec import Descriptor
from bireme.oci.reference import parse_reference
from bireme.storage.db import Database
from tests.unit.image.test_table import record


@pytest.fixture
def table(tmp_path: Path) -> Iterator[ImageTable]:
    db = Database.open(tmp_path / "db.sqlite")
    yield ImageTable(db)
    db.close()


def test_what_each_name_selects(table: ImageTable) -> None:
    a = table.insert(record("a"), [parse_reference(name) for name in ("x:1", "x:latest")]).id
    b = table.insert(record("bb"), [parse_reference(name) for name in ("x:2", "y:1")]).id
    short = [(image_id, [r.familiar for r in references]) for image_id, references in select(table, ["y:1", "x:1"])]
    assert short == [(b, ["y:1"]), (a, ["x:1"])]
    assert {(i, tuple(r.familiar for r in refs)) for i, refs in select(table, ["x"])} == {
        (a, ("x:1", "x:latest")),
        (b, ("x:2",)),
    }
    assert select(table, [a]) == select(table, [a[7:19]]) == [(a, [])]
    assert [(i, [r.familiar for r in refs]) for i, refs in select(table, ["y:1", "y:1", b])] == [(b, ["y:1"])]
    with pytest.raises(NotFound):
        select(table, ["x:1", "nothing"])


def descriptor(name: bytes) -> Descriptor:
    return Descriptor(media_type="t", digest=digest_of(name), size=len(name))


def test_the_plan_has_every_blob_once_and_both_lists() -> None:
    shared = descriptor(b"layer")
    images = [
        SavedImage(
            manifest=descriptor(b"m" + name),
            config=descriptor(b"c" + name),
            layers=[shared],
            diff_ids=[digest_of(b"content")],
            references=[parse_reference(text) for text in names],
        )
        for name, names in ((b"a", ["x:1", "x:2"]), (b"b", []))
    ]
    blobs, lists = plan_archive(images)
    assert len(blobs) == len({blob.digest for blob in blobs}) == 5
    docker = json.loads(lists["manifest.json"])
    assert [entry["RepoTags"] for entry in docker] == [["x:1", "x:2"], None]
    assert docker[0]["Layers"] == ["blobs/sha256/" + shared.digest[7:]]
    index = json.loads(lists["index.json"])["manifests"]
    assert [entry.get("annotations", {}).get("io.containerd.image.name") for entry in index] == [
        "docker.io/library/x:1",
        "docker.io/library/x:2",
        None,
    ]
    assert json.loads(lists["repositories"]) == {"x": {"1": shared.digest[7:], "2": shared.digest[7:]}}
    assert plan_archive(images) == (blobs, lists)
