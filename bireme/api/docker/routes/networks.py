"""/networks: the three predefined ones."""

from __future__ import annotations

from typing import Any

from bireme.api.docker.answers import json
from bireme.api.docker.filters import read_filters
from bireme.api.docker.networking import attached, network_id
from bireme.api.docker.services import Services
from bireme.api.docker.times import format_time
from bireme.api.http.message import Answer, Request
from bireme.api.http.router import Router
from bireme.errors import Denied, Invalid, NotFound, Unsupported

_DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}
_NOT_YET = "networks other than bridge, host and none are not supported yet"


class Networks:
    """Handlers over the engine's networks."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def register(self, router: Router) -> None:
        router.add("GET", "/networks", self.index)
        router.add("GET", "/networks/", self.index)
        router.add("GET", "/networks/{id}", self.inspect)
        router.add("POST", "/networks/create", self.refuse)
        router.add("POST", "/networks/prune", lambda _: json({"NetworksDeleted": None}))
        router.add("POST", "/networks/{id}/connect", self.refuse_connection)
        router.add("POST", "/networks/{id}/disconnect", self.refuse_connection)
        router.add("DELETE", "/networks/{id}", self.remove)

    def _names(self) -> list[str]:
        return ["bridge", "host", "none"] if self._services.networks.bridge is not None else ["host", "none"]

    def _find(self, reference: str) -> str:
        for name in self._names():
            if reference == name or (len(reference) >= 3 and network_id(name).startswith(reference)):
                return name
        raise NotFound(f"network {reference} not found", subject=reference)

    def index(self, request: Request) -> Answer:
        filters = read_filters(request)
        filters.check(("driver", "type", "name", "id", "label", "scope", "dangling"))
        if not set(filters.get("type")) <= {"builtin", "custom"}:
            raise Invalid(f"invalid filter: 'type'='{filters.get('type')[0]}'")
        chosen = []
        for name in self._names():
            if not filters.pattern("name", name) or not filters.prefix("id", network_id(name)):
                continue
            if filters.exact("driver", _DRIVERS[name]) and filters.exact("type", "builtin"):
                chosen.append(name)
        if filters.labels("label", {}) and filters.exact("scope", "local"):
            return json([self._document(name, False) for name in chosen])
        return json([])

    def inspect(self, request: Request) -> Answer:
        return json(self._document(self._find(request.params[0]), True))

    def _document(self, name: str, containers: bool) -> dict[str, Any]:
        bridge = self._services.networks.bridge
        pools: list[dict[str, str]] | None = [] if name != "bridge" else None
        options: dict[str, str] = {}
        if name == "bridge" and bridge is not None:
            pools = [{"Subnet": bridge.subnet, "Gateway": bridge.gateway}]
            options = {
                "com.docker.network.bridge.default_bridge": "true",
                "com.docker.network.bridge.name": bridge.name,
                "com.docker.network.driver.mtu": str(bridge.mtu),
            }
        started = self._services.system.version().started_at_ns
        return {
            "Name": name,
            "Id": network_id(name),
            "Created": format_time(started),
            "Scope": "local",
            "Driver": _DRIVERS[name],
            "EnableIPv4": True,
            "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": None, "Config": pools},
            "Internal": False,
            "Attachable": False,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": attached(self._services.instances.all(), name) if containers else {},
            "Options": options,
            "Labels": {},
        }

    def remove(self, request: Request) -> Answer:
        name = self._find(request.params[0])
        raise Denied(f"{name} is a pre-defined network and cannot be removed", subject=name)

    def refuse(self, request: Request) -> Answer:
        raise Unsupported(_NOT_YET)

    def refuse_connection(self, request: Request) -> Answer:
        self._find(request.params[0])
        raise Unsupported("instances cannot be connected to further networks yet")
