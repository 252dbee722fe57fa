"""images, rmi and tag."""

from __future__ import annotations

from bireme.cli.filters import encode_filters
from bireme.cli.listing import Listing
from bireme.cli.many import each
from bireme.cli.option import FORMAT_TABLE, UNLIMITED, Option, Verb
from bireme.cli.units import ago, human_size
from bireme.cli.verbs.containers import utc_time
from bireme.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.cli.listing import Field

    Image = dict[str, Any]

_NONE = "<none>"


def image_rows(image: Image, with_digests: bool) -> list[Image]:
    """One row for every name of an image; names and digests of a repository belong together."""
    tags: dict[str, list[str]] = {}
    digests: dict[str, list[str]] = {}
    for name in image.get("RepoTags") or ():
        repository, _, tag = str(name).rpartition(":")
        if repository != _NONE:
            tags.setdefault(repository, []).append(tag)
    for name in image.get("RepoDigests") or ():
        repository, _, digest = str(name).partition("@")
        if repository != _NONE:
            digests.setdefault(repository, []).append(digest)
    names: list[tuple[str, str, str]] = []
    for repository, of_repository in tags.items():
        known = digests.pop(repository, []) if with_digests else [_NONE]
        digests.pop(repository, None)
        names += [(repository, tag, digest) for tag in of_repository for digest in known or [_NONE]]
    for repository, known in digests.items():
        names += [(repository, _NONE, digest) for digest in known]
    return [
        image | {"_Repository": repository, "_Tag": tag, "_Digest": digest}
        for repository, tag, digest in names or [(_NONE, _NONE, _NONE)]
    ]


def _shared(value: object) -> str:
    return "N/A" if value in (None, -1) else human_size(float(str(value)))


def _id(image: Image, full: bool) -> str:
    return str(image["Id"]) if full else str(image["Id"]).removeprefix("sha256:")[:12]


def _count(image: Image) -> str:
    count = image.get("Containers", -1)
    return "N/A" if count in (None, -1) else str(count)


def _unique(image: Image) -> str:
    shared = image.get("SharedSize", -1)
    return "N/A" if shared in (None, -1) else human_size(int(image.get("Size") or 0) - int(str(shared)))


def image_fields(full: bool) -> dict[str, tuple[str, Field]]:
    """How a row of `image_rows` is shown."""
    return {
        "Containers": ("CONTAINERS", _count),
        "CreatedAt": ("CREATED AT", lambda i: utc_time(int(i.get("Created") or 0))),
        "CreatedSince": ("CREATED", lambda i: ago(int(i.get("Created") or 0)) or "N/A"),
        "Digest": ("DIGEST", lambda i: i["_Digest"]),
        "ID": ("IMAGE ID", lambda i: _id(i, full)),
        "Repository": ("REPOSITORY", lambda i: i["_Repository"]),
        "SharedSize": ("SHARED SIZE", lambda i: _shared(i.get("SharedSize"))),
        "Size": ("SIZE", lambda i: human_size(int(i.get("Size") or 0), 3)),
        "Tag": ("TAG", lambda i: i["_Tag"]),
        "UniqueSize": ("UNIQUE SIZE", _unique),
        "VirtualSize": ("SIZE", lambda i: human_size(int(i.get("VirtualSize") or i.get("Size") or 0))),
    }


def _listing(full: bool, with_digests: bool) -> Listing:
    digest = ["Digest"] if with_digests else []
    return Listing(image_fields(full), ["Repository", "Tag", *digest, "ID", "CreatedSince", "Size"])


def list_images(invocation: Invocation) -> int:
    args = invocation.args
    form = invocation.form("imagesFormat")
    filters = list(args["filter"])
    if args.rest:
        filters.append(("reference", args.rest[0]))
    images = invocation.engine.images(
        {
            "all": args["all"],
            "digests": args["digests"],
            "shared-size": any(word in form for word in (".SharedSize", ".UniqueSize", "json")),
            "filters": encode_filters(filters),
        }
    )
    if args["quiet"] and form in ("", "table"):
        form = "{{.ID}}"
    with_digests = args["digests"] or ".Digest" in form
    rows = [row for image in images for row in image_rows(image, with_digests)]
    for line in _listing(args["no-trunc"], args["digests"]).lines(rows, form):
        invocation.out(line)
    return 0


def remove_images(invocation: Invocation) -> int:
    args, engine = invocation.args, invocation.engine
    query: dict[str, object] = {"force": args["force"], "noprune": args["no-prune"]}

    def one(name: str) -> str | None:
        report = engine.call("DELETE", f"/images/{quote(name, '/:')}", query) or []
        lines = [f"{key}: {row[key]}" for row in report for key in ("Untagged", "Deleted") if row.get(key)]
        return "\n".join(lines) or None

    return 1 if each(invocation, args.rest, one) else 0


def tag_image(invocation: Invocation) -> int:
    source, target = invocation.args.rest
    repository, colon, tag = target.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = target, ""
    invocation.engine.call("POST", f"/images/{quote(source, '/:')}/tag", {"repo": repository, "tag": tag})
    return 0


VERBS = {
    "image ls": Verb(
        list_images,
        "[OPTIONS] [REPOSITORY[:TAG]]",
        "List images",
        (
            Option("all", "bool", "Show all images (default hides intermediate images)", "a"),
            Option("digests", "bool", "Show digests"),
            Option("filter", "filter", "Filter output based on conditions provided", "f"),
            Option("format", "string", FORMAT_TABLE),
            Option("no-trunc", "bool", "Don't truncate output"),
            Option("quiet", "bool", "Only show image IDs", "q"),
        ),
        args=(0, 1),
        aliases=("image ls", "image list", "images"),
        complete="images",
    ),
    "image rm": Verb(
        remove_images,
        "[OPTIONS] IMAGE [IMAGE...]",
        "Remove one or more images",
        (
            Option("force", "bool", "Force removal of the image", "f"),
            Option("no-prune", "bool", "Do not delete untagged parents"),
        ),
        args=(1, UNLIMITED),
        aliases=("image rm", "image remove", "rmi"),
        complete="images",
    ),
    "image tag": Verb(
        tag_image,
        "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        args=(2, 2),
        aliases=("image tag", "tag"),
        complete="images",
    ),
}
