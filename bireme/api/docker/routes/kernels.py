"""/bireme/v1/kernels: the kernels that machines boot. Keys are this engine's own spelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bireme.api.docker.answers import NO_CONTENT, json
from bireme.api.docker.parameters import flag
from bireme.api.docker.progress import progress_stream
from bireme.api.docker.services import Emit, Kernel, Services
from bireme.api.docker.times import format_time
from bireme.api.http.message import Answer, Request
from bireme.api.http.router import Router
from bireme.errors import Invalid

_BASE = "/bireme/v1/kernels"
_USERS_SHOWN = 100


class Kernels:
    """list, add, load, inspect, default, remove."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def register(self, router: Router) -> None:
        router.add("GET", _BASE, self.index, versioned=False)
        router.add("POST", f"{_BASE}/add", self.add, versioned=False)
        router.add("POST", f"{_BASE}/load", self.load, versioned=False)
        router.add("GET", f"{_BASE}/{{id}}", self.inspect, versioned=False)
        router.add("POST", f"{_BASE}/{{id}}/default", self.make_default, versioned=False)
        router.add("DELETE", f"{_BASE}/{{id}}", self.remove, versioned=False)

    def index(self, request: Request) -> Answer:
        return json([_summary(kernel) for kernel in self._services.kernels.all()])

    def inspect(self, request: Request) -> Answer:
        kernel = self._services.kernels.find(request.params[0])
        return json(_document(kernel, self._services.kernels.users(kernel)))

    def add(self, request: Request) -> Answer:
        """?flavour=cloud: one of the distribution's."""
        flavour, name = request.value("flavour"), request.value("name")
        if not flavour:
            raise Invalid("no kernel is named", hint="?flavour=cloud or generic")

        async def work(emit: Emit) -> None:
            await self._services.kernels.add(flavour, name, emit)

        return progress_stream(self._services.tasks, work)

    def load(self, request: Request) -> Answer:
        """A tar archive of packages, or of vmlinuz, config and modules/."""
        name = request.value("name")

        async def work(emit: Emit) -> None:
            await self._services.kernels.upload(request.body.chunks(), name, emit)

        return progress_stream(self._services.tasks, work)

    async def make_default(self, request: Request) -> Answer:
        await self._services.kernels.set_default(request.params[0])
        return NO_CONTENT

    async def remove(self, request: Request) -> Answer:
        kernel = await self._services.kernels.remove(request.params[0], flag(request, "force"))
        return json({"id": kernel.id, "release": kernel.release})


def _summary(kernel: Kernel) -> dict[str, Any]:
    return {
        "id": kernel.id,
        "release": kernel.release,
        "names": list(kernel.names),
        "default": kernel.default,
        "format": kernel.format,
        "layers": kernel.layer_formats[0],
        "packages": list(kernel.record.packages),
        "size_bytes": kernel.size_bytes,
        "added": format_time(kernel.added_at_ns),
    }


def _document(kernel: Kernel, users: list[str]) -> Mapping[str, Any]:
    record = kernel.record
    return {
        **_summary(kernel),
        "directory": kernel.directory,
        "files": {name: {"size_bytes": f.size_bytes, "digest": f.digest} for name, f in sorted(record.files.items())},
        "modules": list(record.modules),
        "built_in": list(record.builtin),
        "missing": list(record.missing),
        "config": record.config,
        "used_by": users[:_USERS_SHOWN],
    }
