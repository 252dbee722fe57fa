"""Devices by name: the Container Device Interface (github.com/cncf-tags/container-device-interface, SPEC.md).

`vendor.com/class=name` is looked up in the specifications of /etc/cdi and /var/run/cdi when a container starts; a file
of the latter wins over one of the former. A specification is JSON; a file named .yaml counts when it is written as
JSON, which YAML includes. What it asks for and we do not do (hooks, network devices, Intel RDT) is refused.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from bireme.errors import Invalid, Unsupported
from bireme.instance.driver import Placement
from bireme.instance.spec import DeviceRequest, Mount

DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_ENDINGS = (".json", ".yaml", ".yml")
_MOST_BYTES = 16 << 20
_PROPAGATIONS = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})


class _Node(msgspec.Struct, rename="camel"):
    path: str
    host_path: str | None = None
    permissions: str | None = None
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class _Mount(msgspec.Struct, rename="camel"):
    host_path: str = ""
    container_path: str = ""
    type: str | None = None
    options: list[str] | None = None


class _Edits(msgspec.Struct, rename="camel"):
    """The members that are not done keep whatever they say: it is enough that they say something."""

    env: list[str] | None = None
    additional_gids: list[int] | None = None
    device_nodes: list[_Node] | None = None
    mounts: list[_Mount] | None = None
    hooks: Any = None
    net_devices: Any = None
    intel_rdt: Any = None


class _Device(msgspec.Struct, rename="camel"):
    name: str
    container_edits: _Edits | None = None


class _Specification(msgspec.Struct, rename="camel"):
    kind: str = ""
    devices: list[_Device] = []
    container_edits: _Edits | None = None


def inject(placement: Placement, directories: tuple[str, ...] = DIRECTORIES) -> Placement:
    """The placement with what its named devices bring: nodes, mounts, environment, groups. Invalid for a name nobody
    has; Unsupported for a device that needs more than that."""
    spec = placement.spec
    edits = _edits_of(spec.cdi_devices, _read_all(directories))
    devices, mounts = list(spec.devices), list(spec.mounts)
    env, groups = list(spec.process.env), list(spec.process.groups)
    for edit in edits:
        env.extend(edit.env or ())
        groups.extend(str(number) for number in edit.additional_gids or ())
        devices.extend(_node(node) for node in edit.device_nodes or ())
        mounts.extend(_mount(entry) for entry in edit.mounts or ())
    process = msgspec.structs.replace(spec.process, env=tuple(env), groups=tuple(groups))
    spec = msgspec.structs.replace(spec, devices=tuple(devices), mounts=tuple(mounts), process=process)
    return msgspec.structs.replace(placement, spec=spec)


def _edits_of(names: tuple[str, ...], specifications: list[_Specification]) -> list[_Edits]:
    """What each specification asks for once, then its devices, in the order of the names."""
    edits: list[_Edits] = []
    used: list[int] = []
    unknown = []
    for name in names:
        found = _find(name, specifications)
        if found is None:
            unknown.append(name)
            continue
        specification, device = found
        if id(specification) not in used:
            used.append(id(specification))
            edits.append(_checked(specification.container_edits, name))
        edits.append(_checked(device.container_edits, name))
    if unknown:
        raise Invalid(
            f"CDI device injection failed: unresolvable CDI devices {', '.join(unknown)}",
            subject=unknown[0],
            hint=f"specifications are read from {' and '.join(DIRECTORIES)}",
        )
    return edits


def _find(name: str, specifications: list[_Specification]) -> tuple[_Specification, _Device] | None:
    kind, _, device = name.partition("=")
    for specification in specifications:
        if specification.kind == kind:
            for entry in specification.devices:
                if entry.name == device:
                    return specification, entry
    return None


def _checked(edits: _Edits | None, name: str) -> _Edits:
    edits = edits or _Edits()
    asked = {"hooks": edits.hooks, "netDevices": edits.net_devices, "intelRdt": edits.intel_rdt}
    for key, value in asked.items():
        if value:
            raise Unsupported(f"CDI device {name} needs {key}, which are not supported", subject=name)
    return edits


def _node(node: _Node) -> DeviceRequest:
    for key, value in {"fileMode": node.file_mode, "uid": node.uid, "gid": node.gid}.items():
        if value:
            raise Unsupported(f"CDI device node {node.path} sets {key}, which is not supported", subject=key)
    return DeviceRequest(host_path=node.host_path or node.path, path=node.path, permissions=node.permissions or "rwm")


def _mount(entry: _Mount) -> Mount:
    if entry.type not in (None, "", "bind", "none"):
        raise Unsupported(f"CDI mount of type {entry.type} is not supported", subject=str(entry.type))
    if not entry.host_path or not entry.container_path:
        raise Invalid("CDI mount without hostPath or containerPath", subject=entry.container_path or entry.host_path)
    words = entry.options or []
    return Mount(
        kind="bind",
        source=entry.host_path,
        target=entry.container_path,
        read_only="ro" in words,
        recursive="rbind" in words,
        propagation=next((word for word in words if word in _PROPAGATIONS), "rprivate"),
        options=tuple(w for w in words if w not in ("ro", "rw", "bind", "rbind") and w not in _PROPAGATIONS),
    )


def _read_all(directories: tuple[str, ...]) -> list[_Specification]:
    """Every specification, those of the last directory first."""
    found = []
    for directory in reversed(directories):
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        found += [_read(f"{directory}/{name}") for name in names if name.endswith(_ENDINGS)]
    return found


def _read(path: str) -> _Specification:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(_MOST_BYTES), type=_Specification)
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        hint = "" if path.endswith(".json") else "YAML is read only where it is written as JSON"
        raise Invalid(
            f"CDI device injection failed: cannot read {path}: {error}", subject=path, place="cdi", hint=hint
        ) from error
