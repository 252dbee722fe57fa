"""The host's own network, shared by the instance."""

from __future__ import annotations

from bireme.network.null import NullNetwork


class HostNetwork(NullNetwork):
    """`host`: the instance is in the host's namespace; its ports are the host's, so publishing means nothing."""

    name = "host"
