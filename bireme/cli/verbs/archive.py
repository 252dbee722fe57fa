"""load and save: images as tar archives."""

from __future__ import annotations

import os
import sys

from bireme.cli.errors import CommandFailed
from bireme.cli.option import UNLIMITED, Option, Verb
from bireme.cli.output import write_all
from bireme.cli.progress import show_progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bireme.cli.invocation import Invocation
    from bireme.client.http import Response

_SIZE = 256 << 10


def pieces(descriptor: int) -> Iterator[bytes]:
    while data := os.read(descriptor, _SIZE):
        yield data


def load_images(invocation: Invocation) -> int:
    path = invocation.args["input"]
    if not path and os.isatty(0):
        raise CommandFailed("requested load from stdin, but stdin is empty")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else 0
    except OSError as error:
        raise CommandFailed(f"open {path}: {(error.strerror or '').lower()}") from None
    try:
        quiet = invocation.args["quiet"] or not os.isatty(1)
        with invocation.engine.load(pieces(descriptor), quiet) as response:
            show_progress(response.values(), 1, only_results=quiet)
    finally:
        if path:
            os.close(descriptor)
    return 0


def save_images(invocation: Invocation) -> int:
    path = invocation.args["output"]
    if not path and os.isatty(1):
        raise CommandFailed("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if not path:
        sys.stdout.flush()
        write_response(invocation.engine.save(invocation.args.rest), 1)
        return 0
    if os.path.isdir(path):
        raise CommandFailed(f"failed to save image: open {path}: is a directory")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise CommandFailed(
            f'failed to save image: invalid output path: directory "{os.path.dirname(path)}" does not exist'
        )
    save_file(invocation.engine.save(invocation.args.rest), path)
    return 0


def save_file(response: Response, path: str) -> None:
    """The file appears under its name when it is complete; what was there before stays until then."""
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb", buffering=0) as target:
            write_response(response, target.fileno())
        return
    partial = f"{path}.{os.getpid()}.part"
    try:
        with open(partial, "xb", buffering=0) as target:
            write_response(response, target.fileno())
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise


def write_response(response: Response, descriptor: int) -> None:
    with response:
        for chunk in response.chunks():
            write_all(descriptor, chunk)


VERBS = {
    "image load": Verb(
        load_images,
        "[OPTIONS]",
        "Load an image from a tar archive or STDIN",
        (
            Option("input", "string", "Read from tar archive file, instead of STDIN", "i"),
            Option("quiet", "bool", "Suppress the load output", "q"),
        ),
        aliases=("image load", "load"),
    ),
    "image save": Verb(
        save_images,
        "[OPTIONS] IMAGE [IMAGE...]",
        "Save one or more images to a tar archive (streamed to STDOUT by default)",
        (Option("output", "string", "Write to a file, instead of STDOUT", "o"),),
        args=(1, UNLIMITED),
        aliases=("image save", "save"),
        complete="images",
    ),
}
