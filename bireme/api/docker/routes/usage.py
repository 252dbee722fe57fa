"""GET /system/df: what instances and images take on disk.

Two shapes. Up to API 1.51 lists of everything; from 1.52 on sums by kind, and the old lists beside them unless the
client shows with `verbose` that it knows the new ones: then these have the lists.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from bireme.api.docker import images as shapes
from bireme.api.docker import listing
from bireme.api.docker.answers import json
from bireme.api.docker.parameters import flag
from bireme.api.docker.routes.volumes import document
from bireme.api.docker.services import Services
from bireme.api.http.message import Answer, Request
from bireme.api.http.router import Router
from bireme.errors import Invalid

if TYPE_CHECKING:
    from bireme.engine.sizes import LayerUse

Shown = dict[str, Any]

TYPES = ("container", "image", "volume", "build-cache")
TYPES_SINCE = 42
SUMS_SINCE = 52
BUILDER_SIZE_UNTIL = 42


class Usage:
    """Handlers over the engine's sizes."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def register(self, router: Router) -> None:
        router.add("GET", "/system/df", self.usage)

    async def usage(self, request: Request) -> Answer:
        version = request.version
        wanted = _wanted(request)
        layers = self._services.sizes().layers()
        lists: dict[str, list[Shown]] = {"build-cache": []}
        if "container" in wanted:
            lists["container"] = await self._containers(version)
        if "image" in wanted:
            lists["image"] = self._images(layers, version)
        if "volume" in wanted:
            lists["volume"] = await self._volumes()
        lists = {kind: rows for kind, rows in lists.items() if kind in wanted}
        verbose = version >= SUMS_SINCE and flag(request, "verbose")
        shown: Shown = {} if verbose else _lists(lists, layers, version)
        if version >= SUMS_SINCE:
            shown.update(_sums(lists, layers, verbose))
        return json(shown)

    async def _containers(self, version: int) -> list[Shown]:
        instances = self._services.instances.all()
        sizes = await self._services.sizes().of(i.id for i in instances)
        lister = listing.Lister(self._services.images, version, None, sizes)
        rows: list[Shown] = msgspec.json.decode(lister.encode(i for i in instances if i.id in sizes))
        return rows

    def _images(self, layers: LayerUse, version: int) -> list[Shown]:
        users = Counter(i.spec.image_id.removeprefix("sha256:") for i in self._services.instances.all())
        rows = []
        for image in self._services.images.all():
            row = shapes.summary(image, users[image.id.removeprefix("sha256:")], version)
            rows.append({**row, "SharedSize": layers.shared.get(image.id, 0)})
        return sorted(rows, key=lambda row: int(row["Created"]), reverse=True)

    async def _volumes(self) -> list[Shown]:
        """Those that are plain directories, as by dockerd: what options mount lies elsewhere."""
        volumes = self._services.volumes()
        held = [volume for volume in volumes.all() if not volume.options]
        sizes = await self._services.sizes().directories(volume.path for volume in held)
        return [
            {**document(volume), "UsageData": {"RefCount": len(volumes.users(volume.name)), "Size": size}}
            for volume, size in zip(held, sizes, strict=True)
        ]


def _wanted(request: Request) -> tuple[str, ...]:
    asked = request.query.get("type")
    if asked is None or request.version < TYPES_SINCE:
        return TYPES
    for kind in asked:
        if kind not in TYPES:
            raise Invalid(f"unknown object type: {kind}", subject=kind)
    return tuple(asked)


def _lists(lists: dict[str, list[Shown]], layers: LayerUse, version: int) -> Shown:
    """The old shape; before 1.52 what was not asked for is null."""
    names = {"image": "Images", "container": "Containers", "volume": "Volumes", "build-cache": "BuildCache"}
    shown: Shown = {}
    if version < SUMS_SINCE or "image" in lists:
        shown["LayersSize"] = layers.total if "image" in lists else 0
    for kind, name in names.items():
        if version < SUMS_SINCE or kind in lists:
            shown[name] = lists.get(kind)
    if version < BUILDER_SIZE_UNTIL:
        shown["BuilderSize"] = 0
    return shown


def _sums(lists: dict[str, list[Shown]], layers: LayerUse, verbose: bool) -> Shown:
    names = {"image": "Image", "container": "Container", "volume": "Volume", "build-cache": "BuildCache"}
    shown: Shown = {}
    for kind, rows in lists.items():
        if kind == "image":
            unused = [row for row in rows if not row["Containers"]]
            total, reclaimable = layers.total, sum(row["Size"] - row["SharedSize"] for row in unused)
        elif kind == "container":
            unused = [row for row in rows if row["State"] not in ("running", "paused", "restarting")]
            total = sum(max(0, row.get("SizeRw", 0)) for row in rows)
            reclaimable = sum(max(0, row.get("SizeRw", 0)) for row in unused)
        else:
            usage = [row["UsageData"] for row in rows]
            unused = [data for data in usage if not data["RefCount"]]
            total, reclaimable = (sum(max(0, data["Size"]) for data in part) for part in (usage, unused))
        sums: Shown = {
            "ActiveCount": len(rows) - len(unused),
            "TotalCount": len(rows),
            "TotalSize": total,
            "Reclaimable": reclaimable,
        }
        if verbose and rows:
            sums["Items"] = rows
        shown[f"{names[kind]}Usage"] = sums
    return shown
