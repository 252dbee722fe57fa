"""The supervisor as the drivers of one engine share it: one connection, and what comes in sorted by kind.

    engine                one link                     supervisor
      ContainerDriver --.                              instances of kind "container"
                         >-- SupervisorConnection ---
      MicrovmDriver ----'                              instances of kind "machine"

Each new connection says hello with what every driver still reads, tells every driver what the supervisor (no longer)
has, and configures. Events name the kind of their instance; an older supervisor, which knows containers alone, names
none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from bireme.drivers.supervised.link import LinkLost, SupervisorLink
from bireme.errors import NotFound, Unavailable
from bireme.wire import supervision

Settings = Callable[[], Mapping[str, Any]]


class Tenant(Protocol):
    """A driver, as its connection sees it."""

    @property
    def kind(self) -> str:
        """Whose instances it gets: "container" or "machine"."""
        ...

    def claims(self) -> list[str]:
        """Ids of execs whose streams it still reads from the supervisor."""
        ...

    def held(self, rows: Sequence[supervision.InstanceRow]) -> None:
        """A new connection: all instances of its kind that the supervisor has."""
        ...

    def event(self, message: Mapping[str, Any]) -> None:
        """An event about an instance of its kind."""
        ...


class SupervisorConnection:
    """Calls for several drivers over one link."""

    def __init__(self, socket_path: str, settings: Settings, revive: Callable[[], None] | None = None) -> None:
        self._link = SupervisorLink(socket_path, self._event, self._greet, revive)
        self._settings = settings
        self._tenants: dict[str, Tenant] = {}
        self._version = supervision.OLDEST

    def add(self, tenant: Tenant) -> None:
        """Before `run`: who gets the instances of a kind."""
        self._tenants[tenant.kind] = tenant

    async def run(self, connected: asyncio.Future[None]) -> None:
        """Keep the link up; ends with `close`."""
        await self._link.run(connected)

    def close(self) -> None:
        self._link.close()

    async def ready(self) -> None:
        await self._link.ready()

    async def configure(self) -> None:
        """Say the settings again, since they have changed."""
        await self._link.call("configure", **self._settings())

    def require(self, version: int, what: str) -> None:
        """Unavailable when the supervisor that runs speaks an older protocol than `what` needs."""
        if self._version < version:
            raise Unavailable(
                f"{what} needs a newer supervisor than the one that runs",
                place="supervisor",
                hint="end the bireme-supervisor process: its keeper starts the installed one, instances go on",
            )

    async def call(self, op: str, fds: Sequence[int] = (), **fields: Any) -> tuple[dict[str, Any], list[int]]:
        """One request; LinkLost when the supervisor went away before it answered."""
        return await self._link.call(op, fds, **fields)

    async def retried(self, op: str, fds: Sequence[int] = (), **fields: Any) -> tuple[dict[str, Any], list[int]]:
        """A call that may be repeated safely when the supervisor is replaced meanwhile."""
        try:
            return await self._link.call(op, fds, **fields)
        except LinkLost:
            await self._link.ready()
            return await self._link.call(op, fds, **fields)

    async def quietly(self, op: str, **fields: Any) -> None:
        """`retried`, and what the supervisor does not know (any more) is no error."""
        try:
            await self.retried(op, **fields)
        except NotFound:
            pass

    async def _greet(self, link: SupervisorLink) -> None:
        claims = [claim for tenant in self._tenants.values() for claim in tenant.claims()]
        hello, _ = await link.ask("hello", version=supervision.VERSION, client="biremed", execs=claims)
        self._version = supervision.agreed_version(hello.get("version"))
        for kind, tenant in self._tenants.items():
            tenant.held([row for row in hello["instances"] if supervision.kind_of(row) == kind])
        await link.ask("configure", **self._settings())

    def _event(self, message: dict[str, Any]) -> None:
        tenant = self._tenants.get(supervision.kind_of(message))
        if tenant is not None:
            tenant.event(message)
