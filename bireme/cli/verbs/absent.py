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
    "image pull": _verb(
        "image pull",
        "[OPTIONS] NAME[:TAG|@DIGEST]",
        "Download an image from a registry",
        "'bireme load -i FILE' takes archives of 'docker save', 'bireme bootstrap' makes images from packages",
    ),
}
