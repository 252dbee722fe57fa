"""The register file of virtio-mmio as data: which registers there are, and when the driver may write which.

VIRTIO 1.2: 4.2.2 (registers), 2.1 (status bits), 3.1.1 (the handshake).
"""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

MAGIC = int.from_bytes(b"virt", "little")
VERSION = 2
VENDOR = int.from_bytes(b"BIRE", "little")

QUEUE_NOTIFY = 0x50
INTERRUPT_ACK = 0x64
CONFIG = 0x100
ABSORBED = (INTERRUPT_ACK, 4, 1)
"""Offset, size and value of the one write, besides QueueNotify, that is frequent and needs no answer."""

USED_BUFFER, CONFIG_CHANGED = 1, 2
"""Bits of InterruptStatus."""


class Status(IntFlag):
    """Section 2.1."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


FOUND = Status.ACKNOWLEDGE
DRIVEN = FOUND | Status.DRIVER
AGREED = DRIVEN | Status.FEATURES_OK
LIVE = AGREED | Status.DRIVER_OK
FRESH = Status(0)

HANDSHAKE: dict[Status, Status] = {FRESH: FOUND, FOUND: DRIVEN, DRIVEN: AGREED, AGREED: LIVE}
"""The one next status that the driver may write. Besides: the same again, FAILED added at any time, and 0."""

ALWAYS = frozenset(HANDSHAKE) | {LIVE}


class Register(NamedTuple):
    """A 32-bit register. `writable` says in which status the driver may write it, nowhere if empty."""

    offset: int
    name: str
    writable: frozenset[Status] = frozenset()


_NEGOTIATION = frozenset({DRIVEN})
_SETUP = frozenset({AGREED})

REGISTERS = (
    Register(0x000, "MagicValue"),
    Register(0x004, "Version"),
    Register(0x008, "DeviceID"),
    Register(0x00C, "VendorID"),
    Register(0x010, "DeviceFeatures"),
    Register(0x014, "DeviceFeaturesSel", ALWAYS),
    Register(0x020, "DriverFeatures", _NEGOTIATION),
    Register(0x024, "DriverFeaturesSel", ALWAYS),
    Register(0x030, "QueueSel", ALWAYS),
    Register(0x034, "QueueNumMax"),
    Register(0x038, "QueueNum", _SETUP),
    Register(0x044, "QueueReady", _SETUP),
    Register(0x050, "QueueNotify", frozenset({LIVE})),
    Register(0x060, "InterruptStatus"),
    Register(0x064, "InterruptACK", ALWAYS),
    Register(0x070, "Status", ALWAYS),
    Register(0x080, "QueueDescLow", _SETUP),
    Register(0x084, "QueueDescHigh", _SETUP),
    Register(0x090, "QueueDriverLow", _SETUP),
    Register(0x094, "QueueDriverHigh", _SETUP),
    Register(0x0A0, "QueueDeviceLow", _SETUP),
    Register(0x0A4, "QueueDeviceHigh", _SETUP),
    Register(0x0AC, "SHMSel", ALWAYS),
    Register(0x0B0, "SHMLenLow"),
    Register(0x0B4, "SHMLenHigh"),
    Register(0x0B8, "SHMBaseLow"),
    Register(0x0BC, "SHMBaseHigh"),
    Register(0x0FC, "ConfigGeneration"),
)
OFFSETS = {register.name: register.offset for register in REGISTERS}
WRITABLE = {register.offset: register for register in REGISTERS if register.writable}
ADDRESS_PARTS = {
    "QueueDescLow": ("descriptors", 0),
    "QueueDescHigh": ("descriptors", 32),
    "QueueDriverLow": ("avail", 0),
    "QueueDriverHigh": ("avail", 32),
    "QueueDeviceLow": ("used", 0),
    "QueueDeviceHigh": ("used", 32),
}
"""Half-words of queue addresses: the area, and where its bits go."""
