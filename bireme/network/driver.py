"""What the engine asks of a network, whatever its kind.

An endpoint's life: `allocate`, start of the instance, `publish`, ..., `unpublish`, `release`. After a restart of the
engine `restore` comes first, for every instance that still runs, then `ensure`.

Calls are synchronous and short: microseconds without the kernel, a fraction of a millisecond with it. Safe for threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from bireme.instance.driver import Endpoint, PortMapping
from bireme.instance.spec import PortRequest
from bireme.network.portmap import ReservedSocket


class BridgeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge network of one engine. Empty and zero mean: chosen when the bridge is made."""

    tag: str
    """Names the engine's firewall table, so that engines side by side never touch each other's."""
    bridge: str = "bireme0"
    """The interface, at most 15 bytes."""
    name: str = "bridge"
    """The network's name for users."""
    subnet: str = ""
    """ "172.17.0.0/16"; a free private one when empty."""
    gateway: str = ""
    """The host's address in the subnet; its first one when empty."""
    mtu: int = 0
    """That of the interface of the host's default route when 0."""


class Published(NamedTuple):
    """Ports in force, and the sockets that hold them: hand those to the relay, then close them here."""

    mappings: tuple[PortMapping, ...] = ()
    sockets: tuple[ReservedSocket, ...] = ()

    def close(self) -> None:
        """Close the sockets of this process."""
        for reserved in self.sockets:
            reserved.close()


class Network(Protocol):
    """One network. Errors: bireme.errors kinds, with Docker's text where Docker has one."""

    @property
    def name(self) -> str: ...

    def ensure(self) -> None:
        """Make it, or repair it; does nothing in microseconds when all is well."""
        ...

    def allocate(self, instance_id: str, address: str = "", mac: str = "") -> Endpoint | None:
        """An endpoint for an instance, the one it has if it has one; None when instances get no interface here.

        Conflict for an address in use, Invalid for one that does not fit, Unavailable when none is left.
        """
        ...

    def restore(self, instance_id: str, endpoint: Endpoint, mappings: Sequence[PortMapping] = ()) -> None:
        """Take over what an earlier engine gave to a running instance; the relay holds its sockets still."""
        ...

    def release(self, instance_id: str) -> None:
        """The instance has ended: its address may be used again, its ports are closed. Idempotent."""
        ...

    def publish(
        self, instance_id: str, endpoint: Endpoint | None, requests: Sequence[PortRequest], name: str = ""
    ) -> Published:
        """Open ports of the host, all of them or none. Conflict when one is in use; `name` is shown in the message."""
        ...

    def reopen(self, instance_id: str) -> Published:
        """Sockets for the ports in force, when the relay lost them; ports somebody else took meanwhile are left out."""
        ...

    def unpublish(self, instance_id: str) -> None:
        """Close all ports of the instance. Idempotent. A port is free again once the relay let go of its socket."""
        ...

    def teardown(self) -> None:
        """Remove what `ensure` made. Idempotent."""
        ...
