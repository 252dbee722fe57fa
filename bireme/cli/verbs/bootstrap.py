"""bootstrap: an image from the distribution's packages, where no registry is at hand."""

from __future__ import annotations

from bireme.cli.option import Option, Verb
from bireme.cli.progress import show_progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.cli.invocation import Invocation


def bootstrap(invocation: Invocation) -> int:
    with invocation.engine.bootstrap(invocation.args.rest[0]) as response:
        show_progress(response.values(), 1, quiet=invocation.args["quiet"])
    return 0


VERBS = {
    "bootstrap": Verb(
        bootstrap,
        "[OPTIONS] busybox|debian:bookworm",
        "Make an image from the distribution's packages",
        (Option("quiet", "bool", "Suppress the progress output", "q"),),
        args=(1, 1),
        details=(
            "busybox          Debian's busybox-static and its applets\n"
            "debian:bookworm  a minimal Debian 12, by debootstrap or mmdebstrap"
        ),
        complete="busybox debian:bookworm",
    ),
}
