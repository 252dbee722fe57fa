"""context inspect, ls and show."""

from __future__ import annotations

from bireme.cli.contextstore import endpoint, natural
from bireme.cli.invocation import DEFAULT_CONTEXT
from bireme.cli.listing import Listing
from bireme.cli.option import FORMAT_TABLE, FORMAT_VALUE, UNLIMITED, Option, Verb
from bireme.cli.verbs.context import (
    DEFAULT_DESCRIPTION,
    default_meta,
    description_of,
    material_of,
    read_context,
    store_of,
    warn_of_environment,
)
from bireme.client.jsontext import dumps_html, dumps_indented
from bireme.errors import BiremeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.cli.listing import Field

_IN_MEMORY = "<IN MEMORY>"
_ERROR_WIDTH = 45


def inspect(invocation: Invocation) -> int:
    names = invocation.args.rest or [invocation.context()]
    found, errors = [], []
    for name in names:
        try:
            found.append(_shown(invocation, name))
        except BiremeError as error:
            errors.append(error.message)
    form = invocation.args["format"]
    if form in ("", "json"):
        invocation.out(_html(dumps_indented(found)) if not form else dumps_html(found))
    else:
        from bireme.cli.template import Template

        template = Template(form)
        for value in found:
            invocation.out(template.render(value))
    for message in errors:
        invocation.err(message)
    return 1 if errors else 0


def _html(text: str) -> str:
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _shown(invocation: Invocation, name: str) -> dict[str, Any]:
    meta, store = read_context(invocation, name), store_of(invocation)
    kept = name != DEFAULT_CONTEXT
    files = sorted(material_of(invocation, name))
    return {
        "Name": name,
        "Metadata": meta.get("Metadata") or {},
        "Endpoints": meta.get("Endpoints") or {},
        "TLSMaterial": {"docker": files} if files else {},
        "Storage": {
            "MetadataPath": store.meta_path(name) if kept else _IN_MEMORY,
            "TLSPath": store.tls_path(name) if kept else _IN_MEMORY,
        },
    }


def _row(name: str, current: str, description: str, host: str, error: str = "") -> dict[str, Any]:
    return {"Name": name, "Current": name == current, "Description": description, "Host": host, "Error": error}


def _rows(invocation: Invocation) -> list[dict[str, Any]]:
    store, current = store_of(invocation), invocation.context()
    rows = []
    host = str(endpoint(default_meta(invocation)).get("Host") or "")
    rows.append(_row(DEFAULT_CONTEXT, current, DEFAULT_DESCRIPTION, host))
    for name in store.names():
        try:
            meta = store.read(name)
        except BiremeError as error:
            rows.append(_row(name, current, "", "", error.message))
            continue
        rows.append(_row(name, current, description_of(meta), str(endpoint(meta).get("Host") or "")))
    if current not in [row["Name"] for row in rows]:
        try:
            store.read(current)
        except BiremeError as error:
            rows.append(_row(current, current, "", "", error.message))
    return sorted(rows, key=lambda row: natural(row["Name"]))


def _error(row: dict[str, Any]) -> str:
    text = str(row["Error"])
    return text if len(text) <= _ERROR_WIDTH else text[: _ERROR_WIDTH - 1] + "…"


def list_contexts(invocation: Invocation) -> int:
    rows = _rows(invocation)
    if invocation.args["quiet"]:
        for row in rows:
            invocation.out(row["Name"])
        return 0
    form = invocation.args["format"]
    table = form in ("", "table")
    fields: dict[str, tuple[str, Field]] = {
        "Current": ("CURRENT", lambda r: r["Current"]),
        "Description": ("DESCRIPTION", lambda r: r["Description"]),
        "DockerEndpoint": ("DOCKER ENDPOINT", lambda r: r["Host"]),
        "Error": ("ERROR", _error),
        "Name": ("NAME", lambda r: r["Name"] + " *" if table and r["Current"] else r["Name"]),
    }
    for line in Listing(fields, ["Name", "Description", "DockerEndpoint", "Error"]).lines(rows, form):
        invocation.out(line)
    warn_of_environment(invocation, "a context")
    return 0


def show(invocation: Invocation) -> int:
    invocation.out(invocation.context())
    return 0


VERBS = {
    "context inspect": Verb(
        inspect,
        "[OPTIONS] [CONTEXT] [CONTEXT...]",
        "Display detailed information on one or more contexts",
        (Option("format", "string", FORMAT_VALUE, "f"),),
        args=(0, UNLIMITED),
        complete="contexts",
    ),
    "context ls": Verb(
        list_contexts,
        "[OPTIONS]",
        "List contexts",
        (Option("format", "string", FORMAT_TABLE), Option("quiet", "bool", "Only show context names", "q")),
        aliases=("context ls", "context list"),
    ),
    "context show": Verb(show, "", "Print the name of the current context"),
}
