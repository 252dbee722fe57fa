"""system df: what takes how much disk."""

from __future__ import annotations

from bireme.cli.listing import Listing
from bireme.cli.option import FORMAT_TABLE, Option, Verb
from bireme.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.cli.listing import Field

_ACTIVE_STATES = ("running", "paused", "restarting")


def _row(kind: str, total: int, active: int, size: int, reclaimable: int) -> dict[str, Any]:
    share = f" ({reclaimable * 100 // size}%)" if size > 0 else ""
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human_size(size),
        "Reclaimable": human_size(reclaimable) + share,
    }


def _images(usage: dict[str, Any]) -> dict[str, Any]:
    images, size = usage.get("Images") or [], int(usage.get("LayersSize") or 0)
    used = sum(
        int(image.get("Size") or 0) - int(image.get("SharedSize") or 0)
        for image in images
        if int(image.get("Containers") or 0) > 0 and int(image.get("SharedSize") or 0) >= 0
    )
    active = sum(int(image.get("Containers") or 0) > 0 for image in images)
    return _row("Images", len(images), active, size, max(0, size - used))


def _containers(usage: dict[str, Any]) -> dict[str, Any]:
    containers = usage.get("Containers") or []
    active = [container for container in containers if container.get("State") in _ACTIVE_STATES]
    size = sum(int(container.get("SizeRw") or 0) for container in containers)
    used = sum(int(container.get("SizeRw") or 0) for container in active)
    return _row("Containers", len(containers), len(active), size, size - used)


def _volumes(usage: dict[str, Any]) -> dict[str, Any]:
    volumes = [volume.get("UsageData") or {} for volume in usage.get("Volumes") or ()]
    sizes = [max(0, int(volume.get("Size") or 0)) for volume in volumes]
    used = [int(volume.get("RefCount") or 0) > 0 for volume in volumes]
    unused = sum(size for size, in_use in zip(sizes, used, strict=True) if not in_use)
    return _row("Local Volumes", len(volumes), sum(used), sum(sizes), unused)


def _cache(usage: dict[str, Any]) -> dict[str, Any]:
    records = usage.get("BuildCache") or []
    size = sum(int(record.get("Size") or 0) for record in records if not record.get("Shared"))
    used = sum(int(record.get("Size") or 0) for record in records if record.get("InUse") and not record.get("Shared"))
    return _row("Build Cache", len(records), sum(bool(record.get("InUse")) for record in records), size, size - used)


def show_usage(invocation: Invocation) -> int:
    usage = invocation.engine.call("GET", "/system/df") or {}
    names = {"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}
    fields: dict[str, tuple[str, Field]] = {
        name: (header, lambda row, name=name: row[name]) for name, header in names.items()
    }
    rows = [_images(usage), _containers(usage), _volumes(usage), _cache(usage)]
    for line in Listing(fields, list(names)).lines(rows, invocation.args["format"]):
        invocation.out(line)
    return 0


VERBS = {
    "system df": Verb(show_usage, "[OPTIONS]", "Show disk usage", (Option("format", "string", FORMAT_TABLE),)),
}
