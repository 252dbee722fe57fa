"""network ls."""

from __future__ import annotations

from bireme.cli.filters import encode_filters
from bireme.cli.golang import show
from bireme.cli.listing import Listing
from bireme.cli.option import FORMAT_TABLE, Option, Verb
from bireme.cli.units import go_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.cli.listing import Field


def _labels(network: dict[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((network.get("Labels") or {}).items()))


def _listing(full: bool) -> Listing:
    fields: dict[str, tuple[str, Field]] = {
        "CreatedAt": ("CREATED AT", lambda n: go_time(str(n.get("Created") or ""))),
        "Driver": ("DRIVER", lambda n: str(n.get("Driver") or "")),
        "ID": ("NETWORK ID", lambda n: str(n["Id"]) if full else str(n["Id"])[:12]),
        "IPv4": ("IPV4", lambda n: show(bool(n.get("EnableIPv4")))),
        "IPv6": ("IPV6", lambda n: show(bool(n.get("EnableIPv6")))),
        "Internal": ("INTERNAL", lambda n: show(bool(n.get("Internal")))),
        "Label": ("", lambda n, name: str((n.get("Labels") or {}).get(name, ""))),
        "Labels": ("LABELS", _labels),
        "Name": ("NAME", lambda n: str(n.get("Name") or "")),
        "Scope": ("SCOPE", lambda n: str(n.get("Scope") or "")),
    }
    return Listing(fields, ["ID", "Name", "Driver", "Scope"])


def list_networks(invocation: Invocation) -> int:
    args = invocation.args
    networks = invocation.engine.networks({"filters": encode_filters(args["filter"])})
    networks.sort(key=lambda network: str(network.get("Name")))
    form = "{{.ID}}" if args["quiet"] and args["format"] in ("", "table") else invocation.form("networksFormat")
    for line in _listing(args["no-trunc"]).lines(networks, form):
        invocation.out(line)
    return 0


VERBS = {
    "network ls": Verb(
        list_networks,
        "[OPTIONS]",
        "List networks",
        (
            Option("filter", "filter", 'Provide filter values (e.g. "driver=bridge")', "f"),
            Option("format", "string", FORMAT_TABLE),
            Option("no-trunc", "bool", "Do not truncate the output"),
            Option("quiet", "bool", "Only display network IDs", "q"),
        ),
        aliases=("network ls", "network list"),
    ),
}
