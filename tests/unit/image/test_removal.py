from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bireme.errors import Conflict, NotFound
from bireme.image.model import ImageUser
from bireme.image.removal import remove_image
from bireme.image.table import ImageTable
from bireme.oci.digest import digest_of
from bireme.oci.reference import parse_reference
from bireme.storage.db import Database
from tests.unit.image.test_table import record

DIGEST = digest_of(b"pulled")


class Scene:
    def __init__(self, db: Database) -> None:
        self.table = ImageTable(db)
        self.users: list[ImageUser] = []

    def image(self, *references: str) -> str:
        return self.table.insert(record("a"), [parse_reference(text) for text in references]).id

    def remove(self, text: str, force: bool = False) -> list[str]:
        removed = remove_image(self.table, text, force, lambda _: self.users)
        return [f"{one.action} {one.subject}" for one in removed]

    def names(self) -> tuple[str, ...] | None:
        images = self.table.list()
        return images[0].references + images[0].repo_digests if images else None


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    db = Database.open(tmp_path / "db.sqlite")
    yield Scene(db)
    db.close()


def test_the_last_name_takes_the_image(scene: Scene) -> None:
    image_id = scene.image("x:1", "y:1")
    assert scene.remove("x:1") == ["untagged x:1"]
    assert scene.remove("y:1") == ["untagged y:1", f"deleted {image_id}"]
    assert scene.names() is None


def test_digests_of_a_repository_go_with_its_last_tag(scene: Scene) -> None:
    image_id = scene.image("x:1", f"x@{DIGEST}")
    assert scene.remove("x:1") == [f"untagged {name}" for name in ("x:1", f"x@{DIGEST}")] + [f"deleted {image_id}"]


def test_digests_stay_while_a_tag_of_the_repository_stays(scene: Scene) -> None:
    scene.image("x:1", "x:2", f"x@{DIGEST}")
    assert scene.remove("x:1") == ["untagged x:1"]
    assert scene.names() == ("x:2", f"x@{DIGEST}")


def test_by_id(scene: Scene) -> None:
    image_id = scene.image("x:1")
    assert scene.remove(image_id[7:19]) == ["untagged x:1", f"deleted {image_id}"]


def test_by_id_with_names_in_several_repositories(scene: Scene) -> None:
    image_id = scene.image("x:1", "y:1")
    with pytest.raises(Conflict) as caught:
        scene.remove(image_id)
    assert caught.value.message == (
        f"conflict: unable to delete {image_id[7:19]} (must be forced) - image is referenced in multiple repositories"
    )
    assert scene.remove(image_id, force=True) == ["untagged x:1", "untagged y:1", f"deleted {image_id}"]


@pytest.mark.parametrize("running", [True, False])
def test_a_used_image_keeps_its_last_name(scene: Scene, running: bool) -> None:
    image_id = scene.image("x:1", "y:1")
    scene.users = [ImageUser("c" * 64, running)]
    assert scene.remove("y:1") == ["untagged y:1"]
    with pytest.raises(Conflict) as caught:
        scene.remove("x:1")
    assert caught.value.message == (
        'conflict: unable to remove repository reference "x:1" (must force) - '
        f"container {'c' * 12} is using its referenced image {image_id[7:19]}"
    )
    assert scene.names() == ("x:1",)


def test_force_by_name_leaves_a_running_instances_image_without_a_name(scene: Scene) -> None:
    scene.image("x:1")
    scene.users = [ImageUser("c" * 64, True)]
    assert scene.remove("x:1", force=True) == ["untagged x:1"]
    assert scene.names() == ()


def test_force_by_name_deletes_a_stopped_instances_image(scene: Scene) -> None:
    image_id = scene.image("x:1")
    scene.users = [ImageUser("c" * 64, False)]
    assert scene.remove("x:1", force=True) == ["untagged x:1", f"deleted {image_id}"]


def test_by_id_of_a_used_image(scene: Scene) -> None:
    image_id = scene.image("x:1")
    short = image_id[7:19]
    scene.users = [ImageUser("a" * 64, False), ImageUser("b" * 64, True)]
    for force in (False, True):
        with pytest.raises(Conflict) as caught:
            scene.remove(image_id, force)
        assert caught.value.message == (
            f"conflict: unable to delete {short} (cannot be forced) - "
            f"image is being used by running container {'b' * 12}"
        )
    scene.users = scene.users[:1]
    with pytest.raises(Conflict, match=f"{short} .must be forced. - image is being used by stopped container a"):
        scene.remove(image_id)
    assert scene.remove(image_id, force=True) == ["untagged x:1", f"deleted {image_id}"]


def test_what_is_not_there(scene: Scene) -> None:
    with pytest.raises(NotFound, match="No such image: nothing:latest"):
        scene.remove("nothing")
