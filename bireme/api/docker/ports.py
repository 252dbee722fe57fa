"""Ports and the network of a create request."""

from __future__ import annotations

import ipaddress
import re

from bireme.api.docker.bodies import ContainerConfig, EndpointConfig, HostConfig, NetworkingConfig, PortBinding
from bireme.errors import Invalid, Unsupported
from bireme.instance.spec import NetworkRequest, PortRequest

PER_ENDPOINT_MAC = 44
"""From API 1.44 on a MAC address belongs to an endpoint; older clients' endpoint addresses were ignored."""

_PORT = re.compile(r"(\d{1,5})(?:/([a-zA-Z]+))?\Z")
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?\Z")
_MAC = re.compile(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}\Z")


def ports_of(host: HostConfig) -> tuple[PortRequest, ...]:
    found: list[PortRequest] = []
    for text, bindings in host.PortBindings.items():
        number, protocol = parse_port(text)
        found += [_request(number, protocol, binding) for binding in bindings or [PortBinding()]]
    return tuple(found)


def exposed_ports_of(config: ContainerConfig) -> tuple[str, ...]:
    found = []
    for text in config.ExposedPorts:
        first, dash, last = text.partition("/")[0].partition("-")
        if dash:
            protocol = text.partition("/")[2] or "tcp"
            low, high = _number(first, text), _number(last, text)
            if low > high:
                raise _bad_port(text)
            found += [f"{number}/{protocol.lower()}" for number in range(low, high + 1)]
        else:
            number, kind = parse_port(text)
            found.append(f"{number}/{kind}")
    return tuple(found)


def parse_port(text: str) -> tuple[int, str]:
    """Number and protocol of `80`, `80/tcp`; Invalid otherwise."""
    found = _PORT.match(text)
    if found is None:
        raise _bad_port(text)
    protocol = (found[2] or "tcp").lower()
    if protocol not in ("tcp", "udp", "sctp"):
        raise Invalid(f"invalid proto: {protocol}", subject=text)
    return _number(found[1], text), protocol


def _number(digits: str, text: str) -> int:
    if not digits.isdigit() or not 0 < int(digits) < 65536:
        raise _bad_port(text)
    return int(digits)


def _bad_port(text: str) -> Invalid:
    return Invalid(f'invalid port specification: "{text}"', subject=text)


def _request(number: int, protocol: str, binding: PortBinding) -> PortRequest:
    if binding.HostIp:
        try:
            ipaddress.ip_address(binding.HostIp)
        except ValueError:
            raise Invalid(f"invalid IP address: {binding.HostIp}", subject=binding.HostIp) from None
    first = last = 0
    if binding.HostPort:
        found = _RANGE.match(binding.HostPort)
        if found is None:
            raise _bad_port(binding.HostPort)
        first = int(found[1])
        last = int(found[2] or 0)
        if first > 65535 or last > 65535 or (last and last < first):
            raise _bad_port(binding.HostPort)
    kind = PortRequest(container_port=number, host_ip=binding.HostIp, host_port=first, host_port_end=last)
    if protocol == "udp":
        return PortRequest(
            container_port=number, protocol="udp", host_ip=binding.HostIp, host_port=first, host_port_end=last
        )
    if protocol == "sctp":
        raise Unsupported("publishing sctp ports is not supported", subject=f"{number}/sctp")
    return kind


def network_of(
    config: ContainerConfig, host: HostConfig, networking: NetworkingConfig, version: int
) -> tuple[NetworkRequest, list[str]]:
    """The one network an instance joins, and warnings; Unsupported for more than one."""
    name = host.NetworkMode
    if name in ("", "default"):
        name = "bridge"
    if config.NetworkDisabled:
        name = "none"
    warnings: list[str] = []
    endpoints = {("bridge" if key == "default" else key): value for key, value in networking.EndpointsConfig.items()}
    if len(endpoints) > 1:
        raise Unsupported(f"Container cannot be created with multiple network endpoints: {', '.join(endpoints)}")
    if endpoints and name not in endpoints and not name.startswith("container:"):
        raise Invalid("HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks")
    endpoint = endpoints.get(name, EndpointConfig())
    _check_endpoint(endpoint, name)
    if name == "host" and host.PortBindings:
        warnings.append("Published ports are discarded when using host network mode")
    if name == "host" and config.Hostname and host.UTSMode == "host":
        raise Invalid("conflicting options: hostname and the UTS mode")
    if name.startswith("container:"):
        _check_shared(config, host)
    mac = _mac(config, endpoint, name, version, warnings)
    ipam = endpoint.IPAMConfig
    address = ipam.IPv4Address if ipam is not None else ""
    if address:
        _check_address(address)
    return NetworkRequest(name=name, address=address, mac=mac), warnings


def _check_endpoint(endpoint: EndpointConfig, name: str) -> None:
    if endpoint.Links:
        raise Unsupported("links are not supported")
    if endpoint.Aliases and name in ("bridge", "host", "none"):
        raise Invalid("network-scoped aliases are only supported for user-defined networks")
    if endpoint.DriverOpts:
        raise Unsupported(f"endpoint driver options are not supported: {', '.join(endpoint.DriverOpts)}")
    ipam = endpoint.IPAMConfig
    if ipam is not None and (ipam.IPv6Address or ipam.LinkLocalIPs):
        raise Unsupported("IPv6 and link-local addresses of endpoints are not supported")


def _check_shared(config: ContainerConfig, host: HostConfig) -> None:
    """Options that make no sense in another instance's network."""
    if host.NetworkMode == "container:":
        raise Invalid("Invalid network mode: invalid container format container:<name|id>")
    links = (
        "conflicting options: container type network can't be used with links. This would result in undefined behavior"
    )
    conflicts = (
        (config.Hostname, "conflicting options: hostname and the network mode"),
        (host.Links, links),
        (host.Dns, "conflicting options: dns and the network mode"),
        (host.ExtraHosts, "conflicting options: custom host-to-IP mapping and the network mode"),
        (config.MacAddress, "conflicting options: mac-address and the network mode"),
        (
            host.PortBindings or host.PublishAllPorts,
            "conflicting options: port publishing and the container type network mode",
        ),
        (config.ExposedPorts, "conflicting options: port exposing and the container type network mode"),
    )
    for given, message in conflicts:
        if given:
            raise Invalid(message)


def _mac(config: ContainerConfig, endpoint: EndpointConfig, name: str, version: int, warnings: list[str]) -> str:
    old = config.MacAddress
    if version < PER_ENDPOINT_MAC:
        if old and name in ("host", "none"):
            raise Invalid("conflicting options: mac-address and the network mode")
        return _checked_mac(old)
    if old and version >= 52:
        raise Invalid("container-wide MAC address no longer supported; use endpoint-specific MAC address instead")
    if old:
        if endpoint.MacAddress and endpoint.MacAddress != old:
            raise Invalid(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, "
                "or be left empty"
            )
        warnings.append(
            "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
        )
    return _checked_mac(endpoint.MacAddress or old)


def _checked_mac(text: str) -> str:
    if text and not _MAC.match(text):
        raise Invalid(f"invalid MAC address: {text}", subject=text)
    return text.lower().replace("-", ":")


def _check_address(text: str) -> None:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        raise Invalid(f"invalid IPv4 address: {text}", subject=text) from None
