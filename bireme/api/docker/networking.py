"""Networks and endpoints as the Engine API shows them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from bireme.api.docker.services import Instance
from bireme.instance.driver import Endpoint
from bireme.oci.digest import sha256_hex

Shown = dict[str, Any]


@functools.lru_cache(maxsize=64)
def network_id(name: str) -> str:
    """A network's id; the predefined ones have no other identity than their name."""
    return sha256_hex(f"network {name}".encode())


def endpoint_id(instance_id: str, network: str) -> str:
    return sha256_hex(f"endpoint {instance_id} {network}".encode())


def networks_of(instance: Instance) -> Shown:
    """NetworkSettings.Networks: one entry, filled while the instance runs."""
    request = instance.spec.network
    if request.name.startswith("container:"):
        return {}
    running = next((e for e in instance.endpoints if e.network == request.name), None)
    if running is None and instance.endpoints:
        running = instance.endpoints[0]
    return {request.name: _endpoint(instance, request.name, running, request.address, request.mac)}


def _endpoint(instance: Instance, network: str, endpoint: Endpoint | None, address: str, mac: str) -> Shown:
    here = endpoint is not None or (instance.running and network in ("host", "none"))
    return {
        "IPAMConfig": {"IPv4Address": address} if address else None,
        "Links": None,
        "Aliases": None,
        "MacAddress": endpoint.mac if endpoint is not None else mac if instance.running else "",
        "DriverOpts": None,
        "GwPriority": 0,
        "NetworkID": network_id(network) if here else "",
        "EndpointID": endpoint_id(instance.id, network) if here else "",
        "Gateway": endpoint.gateway if endpoint is not None else "",
        "IPAddress": endpoint.address if endpoint is not None else "",
        "IPPrefixLen": endpoint.prefix_len if endpoint is not None else 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }


def port_map(instance: Instance) -> Shown:
    """NetworkSettings.Ports: published ones with their bindings, exposed ones with null; empty when not running."""
    if not instance.running or instance.spec.network.name == "host":
        return {}
    shown: Shown = dict.fromkeys(instance.spec.exposed_ports)
    for mapping in instance.ports:
        key = f"{mapping.container_port}/{mapping.protocol}"
        bindings = shown.get(key) or []
        bindings.append({"HostIp": mapping.host_ip, "HostPort": str(mapping.host_port)})
        shown[key] = bindings
    return shown


def port_list(instance: Instance) -> list[Shown]:
    """Ports of a listing row."""
    if not instance.running or not (instance.ports or instance.spec.exposed_ports):
        return []
    shown: list[Shown] = []
    published: set[str] = set()
    for mapping in instance.ports:
        published.add(f"{mapping.container_port}/{mapping.protocol}")
        shown.append(
            {
                "IP": mapping.host_ip,
                "PrivatePort": mapping.container_port,
                "PublicPort": mapping.host_port,
                "Type": mapping.protocol,
            }
        )
    if instance.spec.network.name == "host":
        return shown
    for exposed in instance.spec.exposed_ports:
        if exposed not in published:
            number, _, protocol = exposed.partition("/")
            shown.append({"PrivatePort": int(number), "Type": protocol or "tcp"})
    return shown


def attached(instances: Iterable[Instance], network: str) -> Shown:
    """The Containers of a network's inspect."""
    shown: Shown = {}
    for instance in instances:
        if not instance.running or instance.spec.network.name != network:
            continue
        endpoint = instance.endpoints[0] if instance.endpoints else None
        shown[instance.id] = {
            "Name": instance.name,
            "EndpointID": endpoint_id(instance.id, network),
            "MacAddress": endpoint.mac if endpoint is not None else "",
            "IPv4Address": f"{endpoint.address}/{endpoint.prefix_len}" if endpoint is not None else "",
            "IPv6Address": "",
        }
    return shown
