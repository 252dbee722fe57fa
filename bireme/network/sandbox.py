"""What the inside of an instance has to configure, as plain data for the runtime's plan.

The host's end of an interface is made by the supervisor, the inside by the instance's own first process before it runs
the command (linux/netlink.py: `configure_interface`); both read the same few values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bireme.instance.driver import Endpoint


def plan_sandbox(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The `network` part of a launch plan; only the first endpoint gives the default route."""
    interfaces = [
        {
            "name": endpoint.interface,
            "bridge": endpoint.bridge,
            "address": endpoint.address,
            "prefix_len": endpoint.prefix_len,
            "gateway": endpoint.gateway if number == 0 else "",
            "mac": endpoint.mac,
            "mtu": endpoint.mtu,
        }
        for number, endpoint in enumerate(endpoints)
    ]
    return {"interfaces": interfaces}
