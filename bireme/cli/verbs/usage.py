"""system df: what takes how much disk, by kind or, with -v, one by one."""

from __future__ import annotations

from bireme.cli.listing import Listing, Row
from bireme.cli.option import FORMAT_TABLE, Option, Verb
from bireme.cli.units import ago, human_size, parse_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.cli.listing import Field

    Fields = dict[str, tuple[str, Field]]

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


def _written(container: dict[str, Any]) -> int:
    """-1 is what the engine could not measure."""
    return max(0, int(container.get("SizeRw") or 0))


def _containers(usage: dict[str, Any]) -> dict[str, Any]:
    containers = usage.get("Containers") or []
    active = [container for container in containers if container.get("State") in _ACTIVE_STATES]
    size, used = sum(map(_written, containers)), sum(map(_written, active))
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


def _volume_fields() -> Fields:
    def data(volume: dict[str, Any]) -> dict[str, Any]:
        return volume.get("UsageData") or {}

    return {
        "Availability": ("AVAILABILITY", lambda v: "N/A"),
        "Driver": ("DRIVER", lambda v: str(v.get("Driver") or "")),
        "Group": ("GROUP", lambda v: "N/A"),
        "Labels": ("LABELS", lambda v: ",".join(f"{key}={v['Labels'][key]}" for key in sorted(v.get("Labels") or {}))),
        "Links": ("LINKS", lambda v: str(data(v).get("RefCount", "N/A"))),
        "Mountpoint": ("MOUNTPOINT", lambda v: str(v.get("Mountpoint") or "")),
        "Name": ("VOLUME NAME", lambda v: str(v.get("Name") or "")),
        "Scope": ("SCOPE", lambda v: str(v.get("Scope") or "")),
        "Size": ("SIZE", lambda v: human_size(int(data(v).get("Size") or 0)) if data(v) else "N/A"),
        "Status": ("STATUS", lambda v: "N/A"),
    }


def _cache_fields() -> Fields:
    return {
        "CacheType": ("CACHE TYPE", lambda r: str(r.get("Type") or "")),
        "CreatedSince": ("CREATED", lambda r: ago(parse_time(str(r.get("CreatedAt") or ""))) or "N/A"),
        "Description": ("DESCRIPTION", lambda r: str(r.get("Description") or "")),
        "ID": ("CACHE ID", lambda r: str(r.get("ID") or "")[:12] + ("*" if r.get("InUse") else "")),
        "InUse": ("IN USE", lambda r: str(bool(r.get("InUse"))).lower()),
        "LastUsedSince": ("LAST USED", lambda r: ago(parse_time(str(r.get("LastUsedAt") or "")))),
        "Shared": ("SHARED", lambda r: str(bool(r.get("Shared"))).lower()),
        "Size": ("SIZE", lambda r: human_size(int(r.get("Size") or 0), 3)),
        "UsageCount": ("USAGE", lambda r: str(r.get("UsageCount") or 0)),
    }


class _Section:
    """One table of `df -v`."""

    def __init__(self, name: str, title: str, fields: Fields, columns: str, rows: list[dict[str, Any]]) -> None:
        self.name = name
        self.title = title
        self.rows = rows
        self.fields = fields
        self.columns = columns.split()

    def plain(self) -> list[dict[str, Any]]:
        return [Row(self.fields, row).plain() for row in self.rows]


def _sections(usage: dict[str, Any], full: bool) -> list[_Section]:
    """`full`: ids and texts are not cut."""
    from bireme.cli.verbs.containers import container_fields
    from bireme.cli.verbs.images import image_fields, image_rows

    images = [row | {"_Digest": ""} for image in usage.get("Images") or () for row in image_rows(image, False)]
    records = usage.get("BuildCache") or []
    cache = human_size(sum(int(record.get("Size") or 0) for record in records))
    return [
        _Section(
            "Images",
            "Images space usage:",
            image_fields(full),
            "Repository Tag ID CreatedSince Size SharedSize UniqueSize Containers",
            images,
        ),
        _Section(
            "Containers",
            "Containers space usage:",
            container_fields(full),
            "ID Image Command LocalVolumes Size RunningFor Status Names",
            [container | {"SizeRootFs": 0} for container in usage.get("Containers") or ()],
        ),
        _Section(
            "Volumes", "Local Volumes space usage:", _volume_fields(), "Name Links Size", usage.get("Volumes") or []
        ),
        _Section(
            "BuildCache",
            f"Build cache usage: {cache}",
            _cache_fields(),
            "ID CacheType Size CreatedSince LastUsedSince UsageCount Shared",
            records,
        ),
    ]


def _show_each(invocation: Invocation, usage: dict[str, Any]) -> None:
    form = invocation.args["format"]
    sections = _sections(usage, form not in ("", "table"))
    if form in ("", "table"):
        for number, section in enumerate(sections):
            invocation.out(("\n" if number else "") + section.title + "\n")
            for line in Listing(section.fields, section.columns).lines(section.rows):
                invocation.out(line)
        return
    value = {section.name: section.plain() for section in sections}
    if form == "json":
        from bireme.client.jsontext import dumps_html

        invocation.out(dumps_html(value))
        return
    from bireme.cli.template import Template

    invocation.out(Template(form).render(value))


def show_usage(invocation: Invocation) -> int:
    usage = invocation.engine.call("GET", "/system/df") or {}
    if invocation.args["verbose"]:
        _show_each(invocation, usage)
        return 0
    names = {"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}
    fields: Fields = {name: (header, lambda row, name=name: row[name]) for name, header in names.items()}
    rows = [_images(usage), _containers(usage), _volumes(usage), _cache(usage)]
    for line in Listing(fields, list(names)).lines(rows, invocation.args["format"]):
        invocation.out(line)
    return 0


VERBS = {
    "system df": Verb(
        show_usage,
        "[OPTIONS]",
        "Show disk usage",
        (
            Option("format", "string", FORMAT_TABLE),
            Option("verbose", "bool", "Show detailed information on space usage", "v"),
        ),
    ),
}
