"""ACPI tables: how a kernel learns what machine it is on. ACPI 6.5, chapter 5.

    RSDP  at a known address                       the root pointer
     `- XSDT                                       addresses of the others
         |- FADT   hardware-reduced: no fixed registers but reset and sleep; no VGA, no CMOS clock, no 8042
         |   `- DSDT   AML: a node per virtio-mmio device (LNRO0005), the serial port, the sleep state S5
         `- MADT   a local APIC per vCPU, one I/O APIC

A distribution's kernel takes virtio-mmio devices from nowhere else. Hardware-reduced ACPI is the form for machines
without a chipset: a kernel that sees it does not look for timers, interrupts and ports of the PC of 1996, and every
port it does not look for is an exit that does not happen. There is no interrupt override: KVM wires every line of the
PC to the pin of the same number.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from bireme.vmm import aml, layout
from bireme.vmm.devices import power

_OEM = b"BIREME"
_OEM_TABLE = b"BIREMEVM"
_CREATOR = b"BRME"
_HEADER = 36

_FADT_SIZE = 276
_FADT_MINOR = 5
_BOOT_NO_VGA, _BOOT_NO_CMOS_CLOCK = 1 << 2, 1 << 5
_WBINVD, _NO_POWER_BUTTON, _NO_SLEEP_BUTTON = 1 << 0, 1 << 4, 1 << 5
_RESET_REGISTER, _HEADLESS, _HARDWARE_REDUCED = 1 << 10, 1 << 12, 1 << 20
_FADT_FLAGS = _WBINVD | _NO_POWER_BUTTON | _NO_SLEEP_BUTTON | _RESET_REGISTER | _HEADLESS | _HARDWARE_REDUCED
_SYSTEM_IO = 1
_FADT_FIELDS: tuple[tuple[int, str, int], ...] = (
    (109, "<H", _BOOT_NO_VGA | _BOOT_NO_CMOS_CLOCK),
    (112, "<I", _FADT_FLAGS),
    (128, "<B", power.RESET_VALUE),
    (131, "<B", _FADT_MINOR),
)
"""Offset, form and value; all others are zero, which means absent."""
_FADT_REGISTERS = ((116, power.RESET), (244, power.SLEEP_CONTROL), (256, power.SLEEP_STATUS))
_FADT_X_DSDT = 140
_FADT_HYPERVISOR = 268


class MmioDevice(NamedTuple):
    """A virtio-mmio device as the DSDT shows it."""

    base: int
    size: int
    gsi: int
    shared: bool = False


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of all bytes zero."""
    return -sum(data) & 0xFF


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A table with its header (5.2.6): length, checksum, who made it."""
    head = struct.pack("<4sIBB6s8sI4sI", signature, _HEADER + len(body), revision, 0, _OEM, _OEM_TABLE, 1, _CREATOR, 1)
    whole = bytearray(head + body)
    whole[9] = checksum(whole)
    return bytes(whole)


def root_pointer(xsdt: int) -> bytes:
    """RSDP (5.2.5.3): two checksums, over the form of ACPI 1.0 and over all."""
    block = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, _OEM, 2, 0, 36, xsdt, 0))
    block[8] = checksum(block[:20])
    block[32] = checksum(block)
    return bytes(block)


def _register(offset: int) -> bytes:
    """A generic address structure (5.2.3.2): one byte in port space."""
    return struct.pack("<BBBBQ", _SYSTEM_IO, 8, 0, 1, layout.PORT_POWER + offset)


def fadt(dsdt: int) -> bytes:
    body = bytearray(_FADT_SIZE)
    for offset, form, value in _FADT_FIELDS:
        struct.pack_into(form, body, offset, value)
    for offset, register in _FADT_REGISTERS:
        body[offset : offset + 12] = _register(register)
    struct.pack_into("<Q", body, _FADT_X_DSDT, dsdt)
    struct.pack_into("<8s", body, _FADT_HYPERVISOR, _OEM)
    return table(b"FACP", 6, bytes(body[_HEADER:]))


def madt(vcpus: int) -> bytes:
    """Local APICs (enabled) and the I/O APIC with all lines; no 8259 is promised."""
    body = struct.pack("<II", layout.LOCAL_APIC, 0)
    for index in range(vcpus):
        body += struct.pack("<BBBBI", 0, 8, index, index, 1)
    return table(b"APIC", 6, body + struct.pack("<BBBBII", 1, 12, 0, 0, layout.IO_APIC, 0))


def _virtio_node(number: int, device: MmioDevice) -> bytes:
    return aml.device(
        f"V{number:03X}",
        aml.name("_HID", aml.string("LNRO0005")),
        aml.name("_UID", aml.integer(number)),
        aml.name(
            "_CRS",
            aml.resources(
                aml.memory32_fixed(device.base, device.size), aml.interrupt(device.gsi, shared=device.shared)
            ),
        ),
    )


def _serial_node() -> bytes:
    return aml.device(
        "COM1",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_UID", aml.integer(1)),
        aml.name("_CRS", aml.resources(aml.port(layout.PORT_SERIAL, 8), aml.irq_no_flags(layout.GSI_SERIAL))),
    )


def dsdt(devices: list[MmioDevice], *, serial: bool) -> bytes:
    nodes = [_virtio_node(number, device) for number, device in enumerate(devices)]
    if serial:
        nodes.append(_serial_node())
    sleep = aml.package(aml.integer(power.SLEEP_TYPE_OFF), aml.integer(0), aml.integer(0), aml.integer(0))
    return table(b"DSDT", 2, aml.name("\\_S5", sleep) + aml.scope("\\_SB", *nodes))


def build_tables(base: int, vcpus: int, devices: list[MmioDevice], *, serial: bool) -> bytes:
    """All tables as they lie from `base` on, the root pointer first. ValueError when they do not fit there."""
    blob = bytearray(64)

    def place(content: bytes) -> int:
        blob.extend(bytes(-len(blob) % 16))
        address = base + len(blob)
        blob.extend(content)
        return address

    block = place(dsdt(devices, serial=serial))
    addresses = [place(fadt(block)), place(madt(vcpus))]
    xsdt = place(table(b"XSDT", 1, struct.pack(f"<{len(addresses)}Q", *addresses)))
    blob[:36] = root_pointer(xsdt)
    if base + len(blob) > layout.ACPI_END:
        raise ValueError(f"{len(devices)} devices: their ACPI tables do not fit")
    return bytes(blob)
