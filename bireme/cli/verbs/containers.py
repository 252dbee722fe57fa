"""ps, also spelled container ls."""

from __future__ import annotations

import time

from bireme.cli.filters import encode_filters
from bireme.cli.listing import Listing
from bireme.cli.option import FORMAT_TABLE, Option, Verb
from bireme.cli.units import ago, human_size
from bireme.client.jsontext import dumps_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.cli.listing import Field

    Container = dict[str, Any]

_SHORT_ID, _COMMAND_WIDTH, _MOUNT_WIDTH = 12, 20, 15


def shorten(text: str, width: int) -> str:
    """At most `width` characters, the last an ellipsis when something was cut."""
    return text if len(text) <= width else text[: width - 1] + "…"


def utc_time(seconds: int) -> str:
    """As Go prints a time of this zone: 2026-01-02 15:04:05 +0000 UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(seconds)) if seconds else ""


def _names(container: Container, full: bool) -> str:
    names = [str(name).removeprefix("/") for name in container.get("Names") or ()]
    if not full:
        names = [name for name in names if "/" not in name] or names
    return ",".join(names)


def _image(container: Container, full: bool) -> str:
    image, image_id = str(container.get("Image") or ""), str(container.get("ImageID") or "")
    if not image:
        return "<no image>"
    if full:
        return image
    short = image.removeprefix("sha256:")[:_SHORT_ID]
    if image_id and short == image_id.removeprefix("sha256:")[:_SHORT_ID]:
        return short
    name, _, digest = image.partition("@")
    return name if digest and ":" in name.rpartition("/")[2] else image


def _command(container: Container, full: bool) -> str:
    command = str(container.get("Command") or "")
    return dumps_text(command if full else shorten(command, _COMMAND_WIDTH))


def _mounts(container: Container, full: bool) -> str:
    names = [str(mount.get("Name") or mount.get("Source") or "") for mount in container.get("Mounts") or ()]
    return ",".join(names if full else [shorten(name, _MOUNT_WIDTH) for name in names])


def _labels(container: Container) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((container.get("Labels") or {}).items()))


def _platform(container: Container) -> Any:
    return (container.get("ImageManifestDescriptor") or {}).get("platform")


def _size(container: Container) -> str:
    own, virtual = int(container.get("SizeRw") or 0), int(container.get("SizeRootFs") or 0)
    text = human_size(own, 3)
    return f"{text} (virtual {human_size(virtual, 3)})" if virtual > 0 else text


def _group(address: str, first: int, last: int, protocol: str) -> str:
    numbers = str(first) if first == last else f"{first}-{last}"
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{numbers}->{numbers}/{protocol}" if address else f"{numbers}/{protocol}"


def format_ports(ports: list[dict[str, Any]]) -> str:
    """`0.0.0.0:8080->80/tcp, 443/tcp`: neighbours that are published as they are become a range."""
    groups: dict[tuple[str, str], list[int]] = {}
    done, mapped = [], []
    rows = [
        (
            int(p.get("PrivatePort") or 0),
            str(p.get("IP") or ""),
            int(p.get("PublicPort") or 0),
            str(p.get("Type") or "tcp"),
        )
        for p in ports
    ]
    for inside, address, outside, protocol in sorted(rows):
        if address and outside != inside:
            host = f"[{address}]" if ":" in address else address
            mapped.append(f"{host}:{outside}->{inside}/{protocol}")
            continue
        group = groups.setdefault((address, protocol), [inside, inside])
        if inside == group[1] + 1:
            group[1] = inside
        elif inside != group[1]:
            done.append(_group(address, group[0], group[1], protocol))
            groups[address, protocol] = [inside, inside]
    done += [_group(address, first, last, protocol) for (address, protocol), (first, last) in groups.items()]
    return ", ".join(done + mapped)


def container_fields(full: bool) -> dict[str, tuple[str, Field]]:
    """How a row of GET /containers/json is shown."""
    return {
        "Command": ("COMMAND", lambda c: _command(c, full)),
        "CreatedAt": ("CREATED AT", lambda c: utc_time(int(c.get("Created") or 0))),
        "ID": ("CONTAINER ID", lambda c: str(c["Id"]) if full else str(c["Id"])[:_SHORT_ID]),
        "Image": ("IMAGE", lambda c: _image(c, full)),
        "Label": ("", lambda c, name: str((c.get("Labels") or {}).get(name, ""))),
        "Labels": ("LABELS", _labels),
        "LocalVolumes": (
            "LOCAL VOLUMES",
            lambda c: str(sum(mount.get("Driver") == "local" for mount in c.get("Mounts") or ())),
        ),
        "Mounts": ("MOUNTS", lambda c: _mounts(c, full)),
        "Names": ("NAMES", lambda c: _names(c, full)),
        "Networks": (
            "NETWORKS",
            lambda c: ",".join(sorted((c.get("NetworkSettings") or {}).get("Networks") or {})),
        ),
        "Platform": ("PLATFORM", _platform),
        "Ports": ("PORTS", lambda c: format_ports(c.get("Ports") or [])),
        "RunningFor": ("CREATED", lambda c: ago(int(c.get("Created") or 0))),
        "Size": ("SIZE", _size),
        "State": ("STATE", lambda c: str(c.get("State") or "")),
        "Status": ("STATUS", lambda c: str(c.get("Status") or "")),
    }


def _listing(full: bool, with_size: bool) -> Listing:
    columns = ["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"]
    return Listing(container_fields(full), [*columns, "Size"] if with_size else columns)


def list_containers(invocation: Invocation) -> int:
    args = invocation.args
    form, quiet = invocation.form("psFormat"), args["quiet"]
    size = bool(args["size"]) or (not quiet and ".Size" in form)
    containers = invocation.engine.containers(
        {
            "all": args["all"] or args["latest"] or args["last"] > 0,
            "limit": 1 if args["latest"] else args["last"] if args["last"] > 0 else None,
            "size": size,
            "filters": encode_filters(args["filter"]),
        }
    )
    if quiet and form in ("", "table"):
        form = "{{.ID}}"
    for line in _listing(args["no-trunc"], size).lines(containers, form):
        invocation.out(line)
    return 0


VERBS = {
    "container ls": Verb(
        list_containers,
        "[OPTIONS]",
        "List containers",
        (
            Option("all", "bool", "Show all containers (default shows just running)", "a"),
            Option("filter", "filter", "Filter output based on conditions provided", "f"),
            Option("format", "string", FORMAT_TABLE),
            Option("last", "int", "Show n last created containers (includes all states)", "n", default=-1),
            Option("latest", "bool", "Show the latest created container (includes all states)", "l"),
            Option("no-trunc", "bool", "Don't truncate output"),
            Option("quiet", "bool", "Only display container IDs", "q"),
            Option("size", "bool", "Display total file sizes", "s"),
        ),
        aliases=("container ls", "container list", "container ps", "ps"),
    ),
}
