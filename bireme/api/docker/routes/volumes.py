"""/volumes: create, list, inspect, remove, prune."""

from __future__ import annotations

from typing import Any

from bireme.api.docker.answers import NO_CONTENT, json
from bireme.api.docker.bodies import VolumeCreateRequest
from bireme.api.docker.decode import read_body
from bireme.api.docker.filters import Filters, read_filters
from bireme.api.docker.parameters import flag
from bireme.api.docker.services import Services, Volume
from bireme.api.docker.times import format_time
from bireme.api.http.message import Answer, Request
from bireme.api.http.router import Router
from bireme.errors import Unsupported

PRUNES_ANONYMOUS_SINCE = 42
_ANONYMOUS = "com.docker.volume.anonymous"


class Volumes:
    """Handlers over the engine's volumes, which are loaded when the first of them runs."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def register(self, router: Router) -> None:
        router.add("GET", "/volumes", self.index)
        router.add("POST", "/volumes/create", self.create)
        router.add("POST", "/volumes/prune", self.prune)
        router.add("GET", "/volumes/{name}", self.inspect)
        router.add("DELETE", "/volumes/{name}", self.remove)

    async def create(self, request: Request) -> Answer:
        body = await read_body(request, VolumeCreateRequest)
        if body.ClusterVolumeSpec is not None:
            raise Unsupported("cluster volumes are not supported")
        volume = await self._services.volumes().create(body.Name, body.Driver, body.DriverOpts, body.Labels)
        return json(document(volume), 201)

    def index(self, request: Request) -> Answer:
        filters = read_filters(request)
        filters.check(("dangling", "driver", "label", "name"))
        volumes = self._services.volumes()
        chosen = [v for v in volumes.all() if _matches(v, filters)]
        if "dangling" in filters:
            dangling = filters.boolean("dangling", False)
            chosen = [v for v in chosen if dangling is not bool(volumes.users(v.name))]
        return json({"Volumes": [document(v) for v in chosen], "Warnings": None})

    def inspect(self, request: Request) -> Answer:
        return json(document(self._services.volumes().find(request.params[0])))

    async def remove(self, request: Request) -> Answer:
        await self._services.volumes().remove(request.params[0], flag(request, "force"))
        return NO_CONTENT

    async def prune(self, request: Request) -> Answer:
        filters = read_filters(request)
        filters.check(("label", "label!", "all"))
        everything = request.version < PRUNES_ANONYMOUS_SINCE or filters.boolean("all", False)

        def chosen(volume: Volume) -> bool:
            unwanted = any(_has(volume, part) for part in filters.get("label!"))
            wanted = everything or _ANONYMOUS in volume.labels
            return wanted and not unwanted and filters.labels("label", volume.labels)

        removed, freed = await self._services.volumes().prune(chosen)
        return json({"VolumesDeleted": list(removed) or None, "SpaceReclaimed": freed})


def document(volume: Volume) -> dict[str, Any]:
    """A volume as the API shows it."""
    return {
        "CreatedAt": format_time(volume.created_at_ns - volume.created_at_ns % 10**9),
        "Driver": "local",
        "Labels": dict(volume.labels) or None,
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": dict(volume.options) or None,
        "Scope": "local",
    }


def _matches(volume: Volume, filters: Filters) -> bool:
    return (
        filters.pattern("name", volume.name)
        and filters.exact("driver", "local")
        and filters.labels("label", volume.labels)
    )


def _has(volume: Volume, part: str) -> bool:
    key, equals, value = part.partition("=")
    return key in volume.labels and (not equals or volume.labels[key] == value)
