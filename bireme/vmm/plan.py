"""What a machine is told before it starts: a value, JSON-able, made by drivers/microvm and carried by the supervisor.

    drivers/microvm     plan_machine -> MachinePlan            (no look at /dev/kvm, no mount, nothing opened)
    engine link         launch{plan: {"machine": MachinePlan}}
    supervisor          adds `uid` (the slot's), clones the machine's first process from the machine template
    vmm                 opens what the plan names while it is still root, jails itself, boots, tells the agent `guest`

Everything outside the guest is in the plan itself; `guest` goes to the agent as it is (bireme.wire.agent.GuestConfig).
Paths are the host's. Names inside follow from the order here: disks are /dev/vda, /dev/vdb..., interfaces eth0, eth1...
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

MIN_MEMORY_BYTES = 64 << 20
"""Less does not boot a distribution's kernel with its modules."""

DEFAULT_MEMORY_BYTES = 512 << 20
OVERHEAD_BYTES = 128 << 20
"""What a machine's cgroup may use beyond guest memory: its processes' own pages, page tables, page cache of disks."""

HOST_PIDS = 128
"""Processes and threads of a machine on the host, vCPU threads aside: a bound, not the guest's number."""

MAX_VCPUS = 32
MAX_DISKS = 26
MAX_INTERFACES = 36
"""One digit of a TAP's name says which interface of its machine it is (supervisor/machines.py)."""
DEFAULT_BOOT_TIMEOUT_S = 60.0


class KernelPlan(TypedDict):
    """`format` says how the file is loaded: an ELF image (by PVH or 64-bit entry) or a bzImage."""

    path: str
    format: Literal["vmlinux", "bzimage"]


class DiskPlan(TypedDict):
    """`serial` is what the guest reads as the disk's id (at most 20 bytes of ASCII)."""

    path: str
    read_only: bool
    serial: str


class InterfacePlan(TypedDict):
    """A TAP named `tap` on `bridge`; "" for the bridge leaves it alone. `mac` is the guest's address."""

    bridge: str
    tap: str
    mac: str
    mtu: int


class MachinePlan(TypedDict):
    """One machine. `initrd` files are concatenated, each padded to 4 bytes. `control_path` is a unix seqpacket listener
    to bind (0600), `report_path` a JSON file {"reason", "code", "signal"} written when the machine ends. `uid`: user
    and group of its processes once they are jailed."""

    id: str
    name: str
    memory_bytes: int
    vcpus: int
    kernel: KernelPlan
    initrd: list[str]
    cmdline: str
    disks: list[DiskPlan]
    interfaces: list[InterfacePlan]
    rng: bool
    console: bool
    control_path: str
    report_path: str
    uid: int
    boot_timeout_s: float
    guest: dict[str, Any]


class MachineLaunch(TypedDict):
    """The `plan` of a supervisor's launch that starts a machine."""

    machine: MachinePlan
