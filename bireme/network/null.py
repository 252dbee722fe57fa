"""Networks that give an instance no interface: `none`, and the base of `host`."""

from __future__ import annotations

from collections.abc import Sequence

from bireme.errors import Invalid
from bireme.instance.driver import Endpoint, PortMapping
from bireme.instance.spec import PortRequest
from bireme.network.driver import Published


class NullNetwork:
    """`none`: a loopback of its own and nothing else. Published ports are discarded, as Docker does."""

    name = "none"

    def ensure(self) -> None:
        """Nothing to make."""

    def allocate(self, instance_id: str, address: str = "", mac: str = "") -> Endpoint | None:
        """No endpoint; Invalid when an address was asked for."""
        if address:
            raise Invalid(
                "user specified IP address is supported only when connecting to networks with user configured subnets",
                subject=self.name,
            )
        if mac:
            raise Invalid(f"conflicting options: mac-address and the network mode {self.name}", subject=self.name)
        return None

    def restore(self, instance_id: str, endpoint: Endpoint, mappings: Sequence[PortMapping] = ()) -> None:
        """Nothing to take over."""

    def release(self, instance_id: str) -> None:
        """Nothing to give back."""

    def publish(
        self, instance_id: str, endpoint: Endpoint | None, requests: Sequence[PortRequest], name: str = ""
    ) -> Published:
        return Published()

    def reopen(self, instance_id: str) -> Published:
        return Published()

    def unpublish(self, instance_id: str) -> None:
        """Nothing is published."""

    def teardown(self) -> None:
        """Nothing was made."""
