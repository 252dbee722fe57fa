"""history: the layers of an image and what made them."""

from __future__ import annotations

import time

from bireme.cli.listing import Listing
from bireme.cli.option import FORMAT_TABLE, Option, Verb
from bireme.cli.units import ago, human_size
from bireme.cli.verbs.containers import shorten
from bireme.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.cli.listing import Field

_CREATED_BY_WIDTH = 45


def _created_at(layer: dict[str, Any]) -> str:
    seconds = int(layer.get("Created") or 0)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
    return stamp[:-5] + "Z" if stamp.endswith("+0000") else f"{stamp[:-2]}:{stamp[-2:]}"


def _created_by(layer: dict[str, Any], full: bool) -> str:
    text = str(layer.get("CreatedBy") or "").replace("\t", " ")
    return text if full else shorten(text, _CREATED_BY_WIDTH)


def _id(layer: dict[str, Any], full: bool) -> str:
    identity = str(layer.get("Id") or "")
    return identity if full else identity.removeprefix("sha256:")[:12]


def _listing(full: bool, human: bool) -> Listing:
    since: Field = (lambda h: ago(int(h.get("Created") or 0)) or "N/A") if human else _created_at
    size: Field = (lambda h: human_size(int(h.get("Size") or 0), 3)) if human else (lambda h: str(h.get("Size") or 0))
    fields: dict[str, tuple[str, Field]] = {
        "Comment": ("COMMENT", lambda h: str(h.get("Comment") or "")),
        "CreatedAt": ("CREATED AT", _created_at),
        "CreatedBy": ("CREATED BY", lambda h: _created_by(h, full)),
        "CreatedSince": ("CREATED" if human else "CREATED AT", since),
        "ID": ("IMAGE", lambda h: _id(h, full)),
        "Size": ("SIZE", size),
    }
    return Listing(fields, ["ID", "CreatedSince", "CreatedBy", "Size", "Comment"])


def show_history(invocation: Invocation) -> int:
    args = invocation.args
    layers = invocation.engine.call("GET", f"/images/{quote(args.rest[0], '/:')}/history") or []
    form = "{{.ID}}" if args["quiet"] and args["format"] in ("", "table") else args["format"]
    for line in _listing(args["no-trunc"], args["human"]).lines(layers, form):
        invocation.out(line)
    return 0


VERBS = {
    "image history": Verb(
        show_history,
        "[OPTIONS] IMAGE",
        "Show the history of an image",
        (
            Option("format", "string", FORMAT_TABLE),
            Option("human", "bool", "Print sizes and dates in human readable format", "H", default=True),
            Option("no-trunc", "bool", "Don't truncate output"),
            Option("quiet", "bool", "Only show image IDs", "q"),
        ),
        args=(1, 1),
        aliases=("image history", "history"),
        complete="images",
    ),
}
