"""top: the processes of a container."""

from __future__ import annotations

from bireme.cli.listing import align
from bireme.cli.option import UNLIMITED, Verb
from bireme.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.cli.invocation import Invocation

_MIN_WIDTH = 20


def show_processes(invocation: Invocation) -> int:
    name, *options = invocation.args.rest
    answer = invocation.engine.call("GET", f"/containers/{quote(name)}/top", {"ps_args": " ".join(options)})
    rows = [answer.get("Titles") or [], *(answer.get("Processes") or [])]
    for line in align(("\t".join(map(str, row)) for row in rows), min_width=_MIN_WIDTH):
        invocation.out(line)
    return 0


VERBS = {
    "container top": Verb(
        show_processes,
        "CONTAINER [ps OPTIONS]",
        "Display the running processes of a container",
        args=(1, UNLIMITED),
        interspersed=False,
        aliases=("container top", "top"),
        complete="running",
    ),
}
