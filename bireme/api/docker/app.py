"""The Engine API and this engine's own, as one router."""

from __future__ import annotations

import asyncio

from bireme import __version__
from bireme.api.docker.bodies import CreateRequest, ExecCreateRequest, ExecStartRequest
from bireme.api.docker.decode import decode
from bireme.api.docker.errors import failure
from bireme.api.docker.routes import refused
from bireme.api.docker.routes.containers import Containers
from bireme.api.docker.routes.events import Events
from bireme.api.docker.routes.execs import Execs
from bireme.api.docker.routes.files import Files
from bireme.api.docker.routes.images import Images
from bireme.api.docker.routes.kernels import Kernels
from bireme.api.docker.routes.networks import Networks
from bireme.api.docker.routes.own import Own
from bireme.api.docker.routes.system import System
from bireme.api.docker.routes.usage import Usage
from bireme.api.docker.routes.volumes import Volumes
from bireme.api.docker.services import Services
from bireme.api.docker.translate import spec_of
from bireme.api.http.router import Router

OLDEST_API = 24
NEWEST_API = 55
WARM_UP_DELAY_S = 0.05


def build_router(services: Services) -> Router:
    """Everything this engine answers, for Docker's clients and its own."""
    headers = (
        f"Api-Version: 1.{NEWEST_API}\r\nDocker-Experimental: false\r\nOstype: linux\r\n"
        f"Server: bireme/{__version__} (linux)\r\n"
    )
    router = Router(failure, oldest=OLDEST_API, newest=NEWEST_API, headers=headers.encode())
    System(services).register(router)
    Usage(services).register(router)
    Containers(services).register(router)
    Execs(services).register(router)
    Images(services).register(router)
    Files(services).register(router)
    Events(services).register(router)
    Networks(services).register(router)
    Volumes(services).register(router)
    Own(services).register(router)
    Kernels(services).register(router)
    refused.register(router)
    services.tasks.spawn(_warm_up(), "api warm-up")
    return router


async def _warm_up() -> None:
    """Build the tables of the bodies on the start path soon, not within somebody's first start (20 ms)."""
    await asyncio.sleep(WARM_UP_DELAY_S)
    spec_of(decode(b'{"Image":"x","HostConfig":{}}', CreateRequest), NEWEST_API)
    decode(b"{}", ExecCreateRequest)
    decode(b"{}", ExecStartRequest)
