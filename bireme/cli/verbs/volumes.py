"""volume create, ls and rm."""

from __future__ import annotations

from bireme.cli.create_body import pairs
from bireme.cli.errors import UsageError
from bireme.cli.filters import encode_filters
from bireme.cli.listing import Listing
from bireme.cli.many import act_on_all
from bireme.cli.option import FORMAT_TABLE, UNLIMITED, Option, Verb
from bireme.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.cli.listing import Field


def create_volume(invocation: Invocation) -> int:
    args = invocation.args
    name = args.rest[0] if args.rest else ""
    if name and args["name"]:
        raise UsageError("conflicting options: specify a volume name either with --name or as an argument")
    body: dict[str, Any] = {
        "Name": name or args["name"],
        "Driver": args["driver"],
        "DriverOpts": pairs(args["opt"]),
        "Labels": pairs(args["label"]),
    }
    made = invocation.engine.create_volume({key: value for key, value in body.items() if value})
    invocation.out(str(made["Name"]))
    return 0


def _labels(volume: dict[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((volume.get("Labels") or {}).items()))


_FIELDS: dict[str, tuple[str, Field]] = {
    "Availability": ("AVAILABILITY", lambda v: "N/A"),
    "Driver": ("DRIVER", lambda v: str(v.get("Driver") or "")),
    "Group": ("GROUP", lambda v: "N/A"),
    "Label": ("", lambda v, name: str((v.get("Labels") or {}).get(name, ""))),
    "Labels": ("LABELS", _labels),
    "Links": ("LINKS", lambda v: "N/A"),
    "Mountpoint": ("MOUNTPOINT", lambda v: str(v.get("Mountpoint") or "")),
    "Name": ("VOLUME NAME", lambda v: str(v["Name"])),
    "Scope": ("SCOPE", lambda v: str(v.get("Scope") or "")),
    "Size": ("SIZE", lambda v: "N/A"),
    "Status": ("STATUS", lambda v: "N/A"),
}


def list_volumes(invocation: Invocation) -> int:
    args = invocation.args
    volumes = invocation.engine.volumes({"filters": encode_filters(args["filter"])})
    volumes.sort(key=lambda volume: str(volume.get("Name")))
    form = "{{.Name}}" if args["quiet"] and args["format"] in ("", "table") else invocation.form("volumesFormat")
    for line in Listing(_FIELDS, ["Driver", "Name"]).lines(volumes, form):
        invocation.out(line)
    return 0


def remove_volumes(invocation: Invocation) -> int:
    force = invocation.args["force"]
    targets = [(name, f"/volumes/{quote(name)}", {"force": force}) for name in invocation.args.rest]
    return act_on_all(invocation, "DELETE", targets)


VERBS = {
    "volume create": Verb(
        create_volume,
        "[OPTIONS] [VOLUME]",
        "Create a volume",
        (
            Option("driver", "string", "Specify volume driver name", "d", default="local", shown_default='"local"'),
            Option("label", "label", "Set metadata for a volume"),
            Option("name", "string", "Specify volume name", hidden=True),
            Option("opt", "map", "Set driver specific options", "o"),
        ),
        args=(0, 1),
        details=(
            "Options of the local driver are type, device and o, as of mount(8): the volume is mounted\n"
            "while containers use it. -o type=none -o o=bind -o device=/srv/data is a directory of the\n"
            "host, -o type=tmpfs -o device=tmpfs -o o=size=64m is memory."
        ),
    ),
    "volume ls": Verb(
        list_volumes,
        "[OPTIONS]",
        "List volumes",
        (
            Option("filter", "filter", 'Provide filter values (e.g. "dangling=true")', "f"),
            Option("format", "string", FORMAT_TABLE),
            Option("quiet", "bool", "Only display volume names", "q"),
        ),
        aliases=("volume ls", "volume list"),
    ),
    "volume rm": Verb(
        remove_volumes,
        "[OPTIONS] VOLUME [VOLUME...]",
        "Remove one or more volumes",
        (Option("force", "bool", "Force the removal of one or more volumes", "f"),),
        args=(1, UNLIMITED),
        aliases=("volume rm", "volume remove"),
        complete="volumes",
    ),
}
