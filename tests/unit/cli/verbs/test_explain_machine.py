"""explain of a machine: facts in order, tables in lines, and whatever a later engine sends shown as it comes."""

from __future__ import annotations

from typing import Any

from bireme.cli.output import Paint
from bireme.cli.verbs.explain import digest, tree

ANSWER: dict[str, Any] = {
    "jail": [{"pid": 5, "name": "bireme-vmm", "uid": 70000, "capabilities": 0, "seccomp": "filter"}],
    "kind": "machine",
    "id": "abc",
    "root": {"driver": "overlay"},
    "machine": {
        "memory_bytes": 512 << 20,
        "memory_slots": [{"base": 0, "size": 512 << 20, "offset": 0}],
        "vcpus": [{"index": 0, "exits": {"KVM_EXIT_MMIO": 4, "KVM_EXIT_IO": 2}, "paused": False}],
        "devices": [
            {
                "name": "disk0",
                "base": 0xD0000000,
                "gsi": 5,
                "queues": 1,
                "features": "0x1",
                "status": ["DRIVER_OK"],
                "refused": 0,
            }
        ],
        "processes": [
            {
                "name": "block",
                "pid": 2,
                "paths": [
                    {"name": "disk0", "active": True, "counters": {"reads": 3}, "queues": [{"taken": 9, "size": 256}]}
                ],
            },
            {"name": "net", "pid": 3, "lost": "device process net: ended"},
        ],
        "pio": {"unclaimed": {"0x61": 2}},
        "mmio": {"unclaimed": {}},
    },
    "link": {"state": "running", "processes": [{"number": 0, "pid": 9, "streams": {"stdout": {}}}]},
    "agent": {"software": "1"},
    "new": {"thing": 1},
}


def test_a_machine() -> None:
    text = "\n".join(tree("web", digest(ANSWER), Paint(-1)))
    assert text.index("id") < text.index("memory slots") < text.index("registers") < text.index("bireme-vmm")
    assert "512MiB" in text
    assert "0  exits 6: mmio=4 io=2" in text
    assert "0xd0000000" in text
    assert "disk0: active; queues (chains/size) 9/256; reads=3" in text
    assert "device process net: ended" in text
    assert "pio unclaimed  0x61=2" in text
    assert "0  pid 9  streams stdout" in text
    assert "thing=1" in text
    assert "overlay" not in text


def test_a_machine_that_does_not_answer() -> None:
    text = "\n".join(tree("web", digest({"kind": "machine", "id": "x", "agent": {"error": "late"}}), Paint(-1)))
    assert "error=late" in text
