"""/bireme/v1: what Docker's API has no word for. Keys are this engine's own spelling."""

from __future__ import annotations

import msgspec

from bireme.api.docker.answers import json
from bireme.api.docker.bodies import BootstrapRequest
from bireme.api.docker.decode import read_body
from bireme.api.docker.progress import progress_stream
from bireme.api.docker.services import Emit, Services
from bireme.api.http.message import Answer, Request
from bireme.api.http.router import Router
from bireme.errors import Invalid


class Own:
    """explain, bootstrap, status."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def register(self, router: Router) -> None:
        router.add("GET", "/bireme/v1/status", self.status, versioned=False)
        for noun in ("instances", "containers"):
            router.add("GET", f"/bireme/v1/{noun}/{{id}}/explain", self.explain, versioned=False)
        router.add("POST", "/bireme/v1/bootstrap", self.bootstrap, versioned=False)

    def status(self, request: Request) -> Answer:
        facts = msgspec.to_builtins(self._services.system.info())
        return json({"ready": True, **facts})

    async def explain(self, request: Request) -> Answer:
        return json(await self._services.consoles.explain(request.params[0]))

    async def bootstrap(self, request: Request) -> Answer:
        body = await read_body(request, BootstrapRequest)
        name = body.image or request.value("name")
        if not name:
            raise Invalid("no image is named", hint='{"image": "busybox"}')

        async def work(emit: Emit) -> None:
            await self._services.images.bootstrap(name, emit)

        return progress_stream(self._services.tasks, work)
