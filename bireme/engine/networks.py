"""Endpoints and published ports of instances: which network a mode means, what is taken at start and given back."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from bireme.engine.record import Instance
from bireme.errors import Invalid, NotFound, Unavailable, Unsupported
from bireme.instance.driver import Endpoint, PortMapping
from bireme.instance.spec import PortRequest
from bireme.network.bridge import BridgeNetwork
from bireme.network.portmap import ReservedSocket

log = logging.getLogger(__name__)

HoldPorts = Callable[[str, Sequence[ReservedSocket]], Awaitable[None]]
DropPorts = Callable[[str], Awaitable[None]]


class Networks:
    """none, host, and the default bridge."""

    def __init__(self, bridge: BridgeNetwork | None, hold: HoldPorts, drop: DropPorts) -> None:
        self.bridge = bridge
        self._hold = hold
        self._drop = drop
        self._why_not = "disabled in this engine"

    def check(self, instance: Instance) -> None:
        """Raise for what this engine cannot do. An unknown name is found out at start, as in Docker: its client takes
        a "not found" of create for a missing image and pulls."""
        mode = instance.spec.network.name
        if mode in ("none", "host"):
            return
        if mode == "bridge" and self.bridge is None:
            raise Unsupported(f"the default bridge network is {self._why_not}", hint="use --network none")

    @property
    def gateway(self) -> str:
        return self.bridge.gateway if self.bridge is not None else ""

    def take(self, instance: Instance) -> tuple[Endpoint, ...]:
        """The endpoints for a start; give them back with `give_back`."""
        request = instance.spec.network
        if request.name in ("none", "host") or request.name.startswith("container:"):
            return ()
        if request.name != "bridge":
            raise NotFound(f"network {request.name} not found", subject=request.name)
        if self.bridge is None:
            raise Unsupported(f"the default bridge network is {self._why_not}", hint="use --network none")
        return (self.bridge.allocate(instance.id, request.address, request.mac),)

    async def publish(self, instance: Instance, endpoints: Sequence[Endpoint]) -> tuple[PortMapping, ...]:
        """Open the published ports of an instance that is about to run."""
        requests = port_requests(instance)
        if not requests or not endpoints or self.bridge is None:
            return ()
        published = self.bridge.publish(instance.id, endpoints[0], requests, instance.name)
        try:
            await self._hold(instance.id, published.sockets)
        except BaseException:
            self.bridge.unpublish(instance.id)
            raise
        finally:
            published.close()
        return published.mappings

    async def give_back(self, instance: Instance) -> None:
        """Close published ports and free addresses; safe to repeat."""
        if self.bridge is None or instance.spec.network.name != "bridge":
            return
        if instance.ports or instance.spec.ports or instance.spec.publish_all:
            self.bridge.unpublish(instance.id)
            await self._drop(instance.id)
        self.bridge.release(instance.id)

    def restore(self, instances: Iterable[Instance]) -> None:
        """Take again what running instances already have, then make or repair the network itself."""
        if self.bridge is None:
            return
        for instance in instances:
            for endpoint in instance.endpoints:
                self.bridge.restore(instance.id, endpoint, instance.ports)
        try:
            self.bridge.ensure()
        except (Unavailable, Unsupported) as error:
            log.warning("no default network: %s", error)
            self.bridge, self._why_not = None, f"not available on this host: {error}"

    def warnings(self) -> tuple[str, ...]:
        """What on this host gets in the way of the networks, for `info`."""
        if self.bridge is None:
            return (f"the default bridge network is {self._why_not}",)
        return tuple(self.bridge.warnings())


def port_requests(instance: Instance) -> tuple[PortRequest, ...]:
    """What is asked with -p, and with -P every exposed port that is not named there."""
    spec = instance.spec
    if not spec.publish_all:
        return spec.ports
    named = {(p.container_port, p.protocol) for p in spec.ports}
    extra = [r for r in map(_exposed, spec.exposed_ports) if (r.container_port, r.protocol) not in named]
    return (*spec.ports, *extra)


def _exposed(text: str) -> PortRequest:
    number, _, protocol = text.partition("/")
    match protocol or "tcp":
        case "tcp":
            return PortRequest(container_port=int(number))
        case "udp":
            return PortRequest(container_port=int(number), protocol="udp")
        case "sctp":
            return PortRequest(container_port=int(number), protocol="sctp")
        case other:
            raise Invalid(f"invalid protocol {other} in exposed port {text}", subject=text)
