"""Docker's verbs that are not there yet: they say so, and what to do instead."""

from __future__ import annotations

from bireme.cli.errors import CommandFailed
from bireme.cli.option import UNLIMITED, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bireme.cli.invocation import Invocation


def _absent(instead: str) -> Callable[[Invocation], int]:
    def say(invocation: Invocation) -> int:
        raise CommandFailed(f"bireme: '{invocation.command}' is not there yet\nHint: {instead}")

    return say


def _verb(path: str, usage: str, summary: str, instead: str) -> Verb:
    aliases = (path, path.rpartition(" ")[2])
    return Verb(
        _absent(instead),
        usage,
        f"{summary} (not there yet)",
        args=(0, UNLIMITED),
        interspersed=False,
        aliases=aliases,
    )


VERBS = {
    "container commit": _verb(
        "container commit",
        "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        "Create a new image from a container's changes",
        "build the image as an archive and bring it in with 'bireme load'",
    ),
    "container cp": _verb(
        "container cp",
        "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-",
        "Copy files/folders between a container and the local filesystem",
        "'bireme exec CONTAINER tar -cf - PATH | tar -xf -' copies out, 'bireme exec -i CONTAINER tar -xf -' copies in",
    ),
    "container diff": _verb(
        "container diff",
        "CONTAINER",
        "Inspect changes to files or directories on a container's filesystem",
        "'bireme explain CONTAINER' names the directory that holds the changes",
    ),
    "image pull": _verb(
        "image pull",
        "[OPTIONS] NAME[:TAG|@DIGEST]",
        "Download an image from a registry",
        "'bireme load -i FILE' takes archives of 'docker save', 'bireme bootstrap' makes images from packages",
    ),
}
