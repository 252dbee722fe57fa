"""System calls by name and number, actions, operators and architectures, as seccomp profiles spell them."""

from __future__ import annotations

import json
import os
from typing import Any

AUDIT_ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
"""linux/audit.h"""

ARCHITECTURES = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "i386",
    "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_ARM": "arm",
}
REFUSED_ABIS = frozenset({"SCMP_ARCH_X32"})
"""Known, and always refused: its calls fail as on a kernel without it."""

DOCKER_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "i386": "x86", "arm": "arm"}
SUB_ARCHITECTURES = {"x86_64": ("SCMP_ARCH_X86",), "aarch64": ("SCMP_ARCH_ARM",)}

ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
"""SECCOMP_RET_*; the low 16 bits are data."""
WITH_DATA = frozenset({"SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"})

OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
}

_tables: dict[str, dict[str, int]] = {}


def read_data(name: str) -> dict[str, Any]:
    """A JSON file of this package."""
    with open(os.path.join(os.path.dirname(__file__), name), "rb") as file:
        loaded: dict[str, Any] = json.loads(file.read())
    return loaded


def syscalls(arch: str) -> dict[str, int]:
    """Numbers by name on `arch` ("x86_64", "i386", "aarch64", "arm"); read once."""
    if not _tables:
        data = read_data("syscalls.json")
        names: list[str] = data["architectures"]
        calls: dict[str, list[int | None]] = data["calls"]
        for index, known in enumerate(names):
            _tables[known] = {name: n for name, row in calls.items() if (n := row[index]) is not None}
    return _tables[arch]
