"""export, import, commit and diff: the root of a container as an archive, as an image, as a list of changes."""

from __future__ import annotations

import os

from bireme.cli.errors import CommandFailed
from bireme.cli.option import Option, Verb
from bireme.cli.progress import show_progress
from bireme.cli.verbs.archive import pieces, save_file, write_response
from bireme.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.cli.invocation import Invocation

_KINDS = "CAD"


def export(invocation: Invocation) -> int:
    path = invocation.args["output"]
    if not path and os.isatty(1):
        raise CommandFailed("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if path and os.path.isdir(path):
        raise CommandFailed(f"failed to export container: open {path}: is a directory")
    directory = os.path.dirname(path)
    if directory and not os.path.isdir(directory):
        raise CommandFailed(f'failed to export container: invalid output path: directory "{directory}" does not exist')
    response = invocation.engine.open("GET", f"/containers/{quote(invocation.args.rest[0])}/export")
    if path:
        save_file(response, path)
    else:
        write_response(response, 1)
    return 0


def import_image(invocation: Invocation) -> int:
    source, *name = invocation.args.rest
    query: dict[str, object] = {
        "fromSrc": source if "://" in source else "-",
        "repo": name[0] if name else "",
        "message": invocation.args["message"],
        "changes": list(invocation.args["change"]),
        "platform": invocation.args["platform"],
    }
    body = b"" if "://" in source else pieces(_open(source))
    with invocation.engine.open("POST", "/images/create", query, body, {"Content-Type": "application/x-tar"}) as answer:
        show_progress(answer.values(), 1)
    return 0


def _open(source: str) -> int:
    if source == "-":
        return 0
    try:
        return os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CommandFailed(f"open {source}: {(error.strerror or '').lower()}") from None


def commit(invocation: Invocation) -> int:
    args = invocation.args
    container, *name = args.rest
    repository, colon, tag = name[0].rpartition(":") if name else ("", "", "")
    if name and (not colon or "/" in tag):
        repository, tag = name[0], ""
    query: dict[str, object] = {
        "container": container,
        "repo": repository,
        "tag": tag,
        "comment": args["message"],
        "author": args["author"],
        "changes": list(args["change"]),
        "pause": None if args["pause"] else "0",
    }
    invocation.out(str(invocation.engine.call("POST", "/commit", query)["Id"]))
    return 0


def diff(invocation: Invocation) -> int:
    name = invocation.args.rest[0]
    if not name:
        raise CommandFailed("Container name cannot be empty")
    for change in invocation.engine.call("GET", f"/containers/{quote(name)}/changes") or ():
        invocation.out(f"{_KINDS[change['Kind']]} {change['Path']}")
    return 0


_CHANGE = Option("change", "list", "Apply Dockerfile instruction to the created image", "c")

VERBS = {
    "container export": Verb(
        export,
        "[OPTIONS] CONTAINER",
        "Export a container's filesystem as a tar archive",
        (Option("output", "string", "Write to a file, instead of STDOUT", "o"),),
        args=(1, 1),
        aliases=("container export", "export"),
        complete="containers",
    ),
    "container diff": Verb(
        diff,
        "CONTAINER",
        "Inspect changes to files or directories on a container's filesystem",
        args=(1, 1),
        aliases=("container diff", "diff"),
        complete="containers",
    ),
    "container commit": Verb(
        commit,
        "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        "Create a new image from a container's changes",
        (
            Option("author", "string", 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")', "a"),
            _CHANGE,
            Option("message", "string", "Commit message", "m"),
            Option("pause", "bool", "Pause container during commit", "p", default=True, shown_default="true"),
        ),
        args=(1, 2),
        aliases=("container commit", "commit"),
        complete="containers",
    ),
    "image import": Verb(
        import_image,
        "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
        "Import the contents from a tarball to create a filesystem image",
        (
            _CHANGE,
            Option("message", "string", "Set commit message for imported image", "m"),
            Option("platform", "string", "Set platform if server is multi-platform capable"),
        ),
        args=(1, 2),
        aliases=("image import", "import"),
        complete="files",
    ),
}
