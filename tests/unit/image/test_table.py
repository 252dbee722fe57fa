from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bireme.errors import Conflict, Invalid, NotFound
from bireme.image.model import ImageRecord, LayerRecord
from bireme.image.table import ImageTable
from bireme.oci.digest import chain_ids, digest_of
from bireme.oci.reference import parse_reference
from bireme.storage.db import Database


def record(name: str, layers: int = 2) -> ImageRecord:
    made = tuple(
        LayerRecord(
            digest=digest_of(f"{name} blob {n}".encode()),
            media_type="",
            blob_bytes=5,
            diff_id=digest_of(f"{name} content {n}".encode()),
            files_bytes=10,
        )
        for n in range(layers)
    )
    document = f'{{"author":"{name}","created":"2024-01-0{len(name)}T00:00:00Z","rootfs":{{"type":"layers"}}}}'
    return ImageRecord(id=digest_of(document.encode()), manifest=digest_of(b"m"), document=document, layers=made)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    made = Database.open(tmp_path / "db.sqlite")
    yield made
    made.close()


@pytest.fixture
def table(db: Database) -> ImageTable:
    return ImageTable(db)


def insert(table: ImageTable, name: str, *references: str) -> str:
    return table.insert(record(name), [parse_reference(text) for text in references]).id


def test_lookup_in_every_spelling(table: ImageTable) -> None:
    digest = digest_of(b"pulled")
    image_id = insert(table, "a", "busybox:1", f"busybox@{digest}")
    for text in (
        "busybox:1",
        "docker.io/library/busybox:1",
        image_id,
        image_id[7:],
        image_id[7:19],
        image_id[:20],
        f"busybox@{digest}",
        f"busybox:9@{digest}",
    ):
        assert table.resolve(text).id == image_id
    image = table.image(image_id)
    assert image.references == ("busybox:1",)
    assert image.repo_digests == (f"busybox@{digest}",)
    assert (image.size, image.author) == (20, "a")
    assert image.chain_id == image.chain_ids[-1] == chain_ids([one.diff_id for one in image.layers])[-1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nothing", "nothing:latest"),
        ("nothing:1", "nothing:1"),
        ("beef", "beef:latest"),
        ("sha256:beef", "sha256:beef"),
        ("0" * 64, "sha256:" + "0" * 64),
        ("reg.example/x", "reg.example/x:latest"),
    ],
)
def test_what_is_not_there(table: ImageTable, text: str, shown: str) -> None:
    with pytest.raises(NotFound, match=f"No such image: {shown}$"):
        table.resolve(text)


def test_malformed_names_are_invalid(table: ImageTable) -> None:
    with pytest.raises(Invalid, match="invalid reference format"):
        table.resolve("a b")


def test_a_prefix_of_several_is_refused(table: ImageTable) -> None:
    seen: dict[str, str] = {}
    for number in range(40):
        image_id = insert(table, f"n{number}")
        first = image_id[7]
        if first in seen:
            with pytest.raises(Invalid, match="multiple IDs"):
                table.resolve(first)
            return
        seen[first] = image_id
    raise AssertionError("forty ids and no two begin alike")


def test_a_name_moves(table: ImageTable) -> None:
    first, second = insert(table, "a", "x:1"), insert(table, "bb", "y:1")
    table.tag(second, parse_reference("x:1"))
    assert table.image(first).references == ()
    assert table.image(second).references == ("x:1", "y:1")
    assert [image.id for image in table.list()] == [second, first]


def test_the_next_engine_knows_the_same(db: Database, table: ImageTable) -> None:
    image_id = insert(table, "a", "x:1", "x:2")
    table.untag([parse_reference("x:2"), parse_reference("never:1")])
    again = ImageTable(db)
    assert again.list() == table.list()
    assert again.resolve("x:1").id == image_id
    again.untag([parse_reference("x:1")])
    again.delete(image_id)
    assert ImageTable(db).list() == []


def test_an_image_with_names_is_not_deleted(table: ImageTable) -> None:
    image_id = insert(table, "a", "x:1")
    with pytest.raises(Conflict):
        table.delete(image_id)


def test_the_same_image_again_only_adds_names(table: ImageTable) -> None:
    assert insert(table, "a", "x:1") == insert(table, "a", "y:1")
    assert len(table.list()) == 1
    assert table.resolve("y:1").references == ("x:1", "y:1")


def test_needs_and_known_layers(table: ImageTable) -> None:
    made = record("a")
    table.insert(made, [])
    needed = table.needed()
    assert needed.blobs == {made.id, made.manifest, *(one.digest for one in made.layers)}
    assert needed.snapshots == {table.image(made.id).chain_id}
    assert table.known_layer(made.layers[0].digest, made.layers[0].diff_id) == 10
    assert table.known_layer(made.layers[0].digest, made.layers[1].diff_id) is None
