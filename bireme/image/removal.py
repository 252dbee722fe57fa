"""Removing images with Docker's rules: a name goes, or the image with all its names, or it is refused and why.

    by name     that name is untagged; when it was the last, the image is deleted too; if an instance uses it that
                is refused, and by force done unless the instance runs (then the image stays without a name)
    by id       the image and its names are deleted if all names are of one repository, or when forced

An image that a running instance uses is never deleted. One used by a stopped instance is deleted by force: the
instance's own snapshot keeps the layers alive.
"""

from __future__ import annotations

from collections.abc import Sequence

from bireme.errors import Conflict
from bireme.image.model import Image, ImageUser, InUse, Removal, short_id
from bireme.image.table import ImageTable
from bireme.oci.digest import is_digest
from bireme.oci.reference import Reference, parse_reference


def remove_image(table: ImageTable, text: str, force: bool, in_use: InUse) -> list[Removal]:
    """Untag and perhaps delete the image `text` names; what was done. NotFound, or Conflict in Docker's words."""
    image = table.resolve(text)
    references = table.names_of(image.id)
    if _is_id(image.id, text):
        return _remove_by_id(table, image, references, force, in_use)
    return _remove_name(table, image, parse_reference(text), references, force, in_use)


def _remove_by_id(
    table: ImageTable, image: Image, references: Sequence[Reference], force: bool, in_use: InUse
) -> list[Removal]:
    if not force and not _single_repository(references):
        raise _conflict(image.id, "must be forced", "image is referenced in multiple repositories")
    _check_users(image.id, in_use(image.id), force)
    return _delete(table, image, references)


def _remove_name(
    table: ImageTable, image: Image, reference: Reference, references: Sequence[Reference], force: bool, in_use: InUse
) -> list[Removal]:
    key = reference._replace(tag="") if reference.digest else reference
    left = [r for r in references if r != key]
    if not any(r.tag for r in left if r.name == reference.name):
        left = [r for r in left if r.name != reference.name]
    gone = [r for r in references if r not in left]
    users = list(in_use(image.id))
    if users and not left and not force:
        raise Conflict(
            f'conflict: unable to remove repository reference "{reference.familiar}" (must force) - '
            f"container {short_id(users[0].id)} is using its referenced image {short_id(image.id)}",
            subject=reference.familiar,
        )
    table.untag(gone)
    removals = [Removal("untagged", r.familiar) for r in gone]
    if left or any(user.running for user in users):
        return removals
    return removals + _delete(table, image, ())


def _delete(table: ImageTable, image: Image, references: Sequence[Reference]) -> list[Removal]:
    table.untag(references)
    table.delete(image.id)
    return [*(Removal("untagged", r.familiar) for r in references), Removal("deleted", image.id)]


def _check_users(image_id: str, users: Sequence[ImageUser], force: bool) -> None:
    for user in users:
        if user.running:
            why = f"image is being used by running container {short_id(user.id)}"
            raise _conflict(image_id, "cannot be forced", why)
    if users and not force:
        why = f"image is being used by stopped container {short_id(users[0].id)}"
        raise _conflict(image_id, "must be forced", why)


def _conflict(image_id: str, remedy: str, why: str) -> Conflict:
    return Conflict(f"conflict: unable to delete {short_id(image_id)} ({remedy}) - {why}", subject=image_id)


def _single_repository(references: Sequence[Reference]) -> bool:
    tags = [r for r in references if r.tag]
    return len(tags) <= 1 and len({r.name for r in references}) <= 1


def _is_id(image_id: str, text: str) -> bool:
    """Whether a text that resolved to this image did so as an id."""
    if is_digest(text) or is_digest(f"sha256:{text}"):
        return True
    prefix = text.removeprefix("sha256:")
    return len(prefix) > 0 and image_id.startswith(f"sha256:{prefix}")
