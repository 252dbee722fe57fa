"""port: what is published where."""

from __future__ import annotations

from bireme.cli.errors import CommandFailed
from bireme.cli.kinds import parse_uint
from bireme.cli.option import Verb
from bireme.errors import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation


def _address(binding: dict[str, Any]) -> str:
    host = str(binding.get("HostIp") or "")
    return f"[{host}]:{binding.get('HostPort')}" if ":" in host else f"{host}:{binding.get('HostPort')}"


def _order(port: str) -> tuple[int, str]:
    number, _, protocol = port.partition("/")
    return (int(number) if number.isdecimal() else 0, protocol)


def show_ports(invocation: Invocation) -> int:
    name, *wanted = invocation.args.rest
    container = invocation.engine.container(name)
    ports: dict[str, Any] = (container.get("NetworkSettings") or {}).get("Ports") or {}
    if not wanted:
        for port in sorted(ports, key=_order):
            for binding in ports[port] or ():
                invocation.out(f"{port} -> {_address(binding)}")
        return 0
    number, _, protocol = wanted[0].partition("/")
    try:
        parse_uint(number)
    except Invalid as error:
        raise CommandFailed(f"Error: invalid port ({number}): {error.message}") from None
    port = f"{number}/{protocol or 'tcp'}"
    if not ports.get(port):
        raise CommandFailed(f"Error: No public port '{wanted[0]}' published for {name}")
    for binding in ports[port]:
        invocation.out(_address(binding))
    return 0


VERBS = {
    "container port": Verb(
        show_ports,
        "CONTAINER [PRIVATE_PORT[/PROTO]]",
        "List port mappings or a specific mapping for the container",
        args=(1, 2),
        aliases=("container port", "port"),
        complete="running",
    ),
}
