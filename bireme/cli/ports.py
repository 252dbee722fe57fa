"""-p and --expose: from `[host-ip:][host-port:]container-port[/protocol]`, ranges included, to the API's maps."""

from __future__ import annotations

from bireme.cli.errors import BadValue
from bireme.cli.kinds import parse_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PROTOCOLS = ("tcp", "udp", "sctp")


def _range(text: str, what: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    numbers = [first, last] if dash else [first, first]
    if not all(number.isdecimal() and number.isascii() and int(number) <= 65535 for number in numbers):
        raise BadValue(f"invalid {what}: {text}")
    low, high = int(numbers[0]), int(numbers[1])
    if high < low:
        raise BadValue(f"invalid {what}: {text}")
    return low, high


def _split(text: str) -> tuple[str, str, str]:
    parts = text.split(":")
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        return "", parts[0], parts[1]
    return ":".join(parts[:-2]), parts[-2], parts[-1]


def _standard(text: str) -> str:
    """The long form (`target=80,published=8080,protocol=tcp`) as the short one."""
    fields = {"protocol": "tcp", "published": "", "target": ""}
    for field in text.split(","):
        key, equals, value = field.strip().lower().partition("=")
        if not equals or not value:
            raise BadValue(f"invalid publish opts format (should be name=value but got '{field}')")
        key = {"source": "published"}.get(key, key)
        if key == "mode":
            continue
        if key not in fields:
            raise BadValue(f"unrecognized publish opt '{key}'")
        fields[key] = value
    return f"{fields['published']}:{fields['target']}/{fields['protocol']}"


def _host_ip(text: str) -> str:
    """The address part of a publish spec, without the brackets of IPv6."""
    address = text.removeprefix("[").removesuffix("]")
    if address:
        try:
            parse_ip(address)
        except BadValue:
            raise BadValue(f"invalid IP address: {address}") from None
    return address


def parse_publish(text: str) -> list[tuple[str, dict[str, str]]]:
    """("80/tcp", {"HostIp", "HostPort"}) for every container port of one -p."""
    rest, slash, protocol = (_standard(text) if "=" in text else text).partition("/")
    protocol = protocol.lower() if slash and protocol else "tcp"
    ip, host, container = _split(rest)
    address = _host_ip(ip)
    if not container:
        raise BadValue(f"no port specified: {text}<empty>")
    low, high = _range(container, "containerPort")
    host_low, host_high = _range(host, "hostPort") if host else (0, 0)
    if host and high - low != host_high - host_low and high != low:
        raise BadValue(f"invalid ranges specified for container and host Ports: {container} and {host}")
    if protocol not in _PROTOCOLS:
        raise BadValue(f"invalid proto: {protocol}")
    bindings = []
    for port in range(low, high + 1):
        published = str(host_low + port - low) if host else ""
        if host and low == high and host_low != host_high:
            published = f"{host_low}-{host_high}"
        bindings.append((f"{port}/{protocol}", {"HostIp": address, "HostPort": published}))
    return bindings


def publish(specs: list[str], exposed: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """ExposedPorts and PortBindings of all -p and --expose together."""
    ports: dict[str, Any] = {}
    bindings: dict[str, Any] = {}
    for spec in specs:
        for port, binding in parse_publish(spec):
            ports[port] = {}
            bindings.setdefault(port, []).append(binding)
    for spec in exposed:
        if ":" in spec:
            raise BadValue(f"invalid port format for --expose: {spec}")
        numbers, _, protocol = spec.partition("/")
        try:
            low, high = _range(numbers, "port")
        except BadValue as error:
            raise BadValue(f"invalid range format for --expose: {spec}, error: {error.message}") from None
        for number in range(low, high + 1):
            ports.setdefault(f"{number}/{protocol or 'tcp'}", {})
    return ports, bindings
