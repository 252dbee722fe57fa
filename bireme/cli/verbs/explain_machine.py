"""What explain shows of a virtual machine: memory slots, vCPUs and their exits, devices, queues, the jail."""

from __future__ import annotations

from bireme.cli.golang import show
from bireme.cli.listing import align
from bireme.cli.units import binary_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

_ORDER = ("id", "kind", "pid", "slot", "limits", "cgroups", "network", "machine", "devices", "link", "agent", "jail")
_NOT_SHOWN = ("root",)
_WIDE = 100


class Lines(list[str]):
    """A list that is shown with a line for each item."""


def digest_machine(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The same facts in a fixed order, tables in lines; what a later engine adds is shown as it comes."""
    facts = dict(answer)
    machine = facts.get("machine")
    if isinstance(machine, dict):
        facts["machine"], facts["devices"] = _machine(machine), _devices(machine)
    shown = {key: facts[key] for key in _ORDER if key in facts}
    shown |= {key: value for key, value in facts.items() if key not in shown and key not in _NOT_SHOWN}
    if isinstance(shown.get("link"), dict):
        shown["link"] = _link(shown["link"])
    if isinstance(shown.get("jail"), list):
        shown["jail"] = _table(shown["jail"])
    return shown


def _machine(machine: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "memory": binary_size(machine.get("memory_bytes", 0)),
        "memory slots": Lines(_slot(row) for row in machine.get("memory_slots", [])),
        "vcpus": Lines(_vcpu(row) for row in machine.get("vcpus", [])),
    }
    for name in ("pio", "mmio"):
        bus = machine.get(name)
        if isinstance(bus, dict) and bus.get("unclaimed"):
            found[f"{name} unclaimed"] = _pairs(bus["unclaimed"])
    if machine.get("paused"):
        found["paused"] = True
    return found


def _slot(row: Mapping[str, Any]) -> str:
    base, size = int(row.get("base", 0)), int(row.get("size", 0))
    return f"{base:#012x} - {base + size:#012x}  {binary_size(size)}"


def _vcpu(row: Mapping[str, Any]) -> str:
    exits: dict[str, Any] = row.get("exits") or {}
    names = {name.removeprefix("KVM_EXIT_").lower(): count for name, count in exits.items()}
    return f"{row.get('index', '?')}  exits {sum(exits.values())}: {_pairs(names) or 'none'}"


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={show(value)}" for key, value in values.items())


def _devices(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Registers as the vCPUs see them, then the data paths by the process that has them."""
    found: dict[str, Any] = {"registers": _table(_register_rows(machine.get("devices", [])))}
    for process in machine.get("processes", []):
        found[f"{process.get('name', '?')} (pid {process.get('pid', '?')} inside)"] = (
            process["lost"] if process.get("lost") else Lines(_path(path) for path in process.get("paths", []))
        )
    return found


def _register_rows(devices: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "device": row.get("name"),
            "window": f"{int(row.get('base', 0)):#x}",
            "gsi": row.get("gsi"),
            "queues": row.get("queues"),
            "features": row.get("features", ""),
            "driver": "ready" if "DRIVER_OK" in row.get("status", ()) else "none",
            "refused": row.get("refused", 0),
        }
        for row in devices
    ]


def _path(path: Mapping[str, Any]) -> str:
    counters = {key: value for key, value in (path.get("counters") or {}).items() if value}
    queues = " ".join(
        "-" if queue is None else f"{queue.get('taken')}/{queue.get('size')}" for queue in path.get("queues", [])
    )
    state = path.get("broken") or ("active" if path.get("active") else "idle")
    return f"{path.get('name')}: {state}; queues (chains/size) {queues or 'none'}; {_pairs(counters)}"[: 2 * _WIDE]


def _link(link: Mapping[str, Any]) -> dict[str, Any]:
    """Each process inside that has streams, in a line."""
    rows = Lines(
        f"{row.get('number')}  pid {row.get('pid')}  streams {' '.join(row.get('streams', {})) or 'none'}"
        for row in link.get("processes", [])
    )
    return {**link, "processes": rows}


def _table(rows: Sequence[Mapping[str, Any]]) -> Lines:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["\t".join(show(row.get(key, "")) for key in keys) for row in rows]
    return Lines(align(["\t".join(key.upper() for key in keys), *lines], min_width=0))
