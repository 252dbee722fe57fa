"""Namespaces of other instances: who is meant is settled at create, whether it can be joined is found out at start.

Docker's rules: a name becomes an id at create, so that renaming changes nothing, and one that does not exist is told at
start. Whoever joins a network has the hosts, hostname and resolv.conf files of its target, and its host name.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bireme.engine import files
from bireme.engine.record import Instance
from bireme.engine.table import InstanceTable
from bireme.errors import BiremeError, Conflict, Invalid, NotFound
from bireme.instance.driver import Placement
from bireme.instance.spec import InstanceSpec

PREFIX = "container:"
_EDGE = {"network": "NetworkMode", "pid": "PidMode", "ipc": "IpcMode"}


def settle(spec: InstanceSpec, table: InstanceTable) -> InstanceSpec:
    """The spec with ids for names, in what inspect shows too."""
    found: dict[str, str] = {}
    for kind, mode in _modes(spec).items():
        target = _known(table, mode)
        if target is not None:
            found[kind] = PREFIX + target.id
    if not found:
        return spec
    network, namespaces = spec.network, spec.namespaces
    if "network" in found:
        network = msgspec.structs.replace(network, name=found["network"])
    inner = {kind: mode for kind, mode in found.items() if kind != "network"}
    namespaces = msgspec.structs.replace(namespaces, **inner)
    shown: dict[str, Any] = {**spec.edge.get("HostConfig", {}), **{_EDGE[kind]: mode for kind, mode in found.items()}}
    return msgspec.structs.replace(
        spec, network=network, namespaces=namespaces, edge={**spec.edge, "HostConfig": shown}
    )


def join(instance: Instance, placement: Placement, table: InstanceTable) -> Placement:
    """What a start needs of its targets; Conflict, Invalid or NotFound with dockerd's words when one cannot be
    joined."""
    modes = _modes(instance.spec)
    if (mode := modes.get("ipc")) is not None:
        _check_ipc(table, mode.removeprefix(PREFIX))
    if (mode := modes.get("pid")) is not None:
        _running(table, mode.removeprefix(PREFIX), "failed to join PID namespace: ")
    if (mode := modes.get("network")) is None:
        return placement
    target = _network_target(instance, table, mode.removeprefix(PREFIX))
    hostname = target.hostname
    process = instance.spec.process
    own = f"HOSTNAME={instance.hostname}"
    env = tuple(f"HOSTNAME={hostname}" if entry == own else entry for entry in process.env)
    spec = msgspec.structs.replace(
        instance.spec, domainname=target.spec.domainname, process=msgspec.structs.replace(process, env=env)
    )
    return msgspec.structs.replace(
        placement,
        spec=spec,
        hostname=hostname,
        files=tuple((f"{target.etc_directory}/{name}", inside) for name, inside in files.NAMES),
    )


def _modes(spec: InstanceSpec) -> dict[str, str]:
    modes = {"network": spec.network.name, "pid": spec.namespaces.pid, "ipc": spec.namespaces.ipc}
    return {kind: mode for kind, mode in modes.items() if mode.startswith(PREFIX)}


def _known(table: InstanceTable, mode: str) -> Instance | None:
    try:
        return table.find(mode.removeprefix(PREFIX))
    except BiremeError:
        return None


def _running(table: InstanceTable, reference: str, before: str) -> Instance:
    try:
        target = table.find(reference)
    except BiremeError as error:
        raise Invalid(f"{before}{error.message}", subject=reference) from error
    if target.status.value == "restarting":
        raise Conflict(f"{before}{_restarting(reference)}", subject=reference)
    if not target.running:
        raise Conflict(f"{before}container {reference} is not running", subject=reference)
    return target


def _restarting(reference: str) -> str:
    return f"Container {reference} is restarting, wait until the container is running"


def _check_ipc(table: InstanceTable, reference: str) -> None:
    before = "failed to join IPC namespace: "
    target = _running(table, reference, before)
    if not target.spec.namespaces.ipc:
        raise Conflict(
            f"{before}container {reference}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
            subject=reference,
        )


def _network_target(instance: Instance, table: InstanceTable, reference: str) -> Instance:
    try:
        target = table.find(reference)
    except BiremeError as error:
        raise NotFound(f"joining network namespace of container: {error.message}", subject=reference) from error
    if target is instance:
        raise Invalid("cannot join own network namespace", subject=reference)
    if target.status.value == "restarting":
        raise Conflict(
            f"cannot join network namespace of container: {_restarting(reference)}",
            subject=reference,
        )
    if not target.running:
        raise Conflict(
            "cannot join network namespace of a non running container: "
            f"container {target.name} is {target.status.value}",
            subject=reference,
        )
    return target
