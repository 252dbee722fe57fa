"""ACPI tables: found from the root pointer as a kernel finds them, and disassembled where iasl is at hand."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from bireme.vmm import layout
from bireme.vmm.acpi import MmioDevice, build_tables, dsdt
from bireme.vmm.plan import MAX_DISKS, MAX_INTERFACES, MAX_VCPUS

DEVICES = [MmioDevice(0xD0000000, 0x1000, 5), MmioDevice(0xD0001000, 0x1000, 16, shared=True)]


def tables(blob: bytes, base: int = layout.ACPI) -> dict[bytes, bytes]:
    """By signature, followed from the root pointer; every checksum is looked at."""

    def read(address: int) -> bytes:
        offset = address - base
        length = struct.unpack_from("<I", blob, offset + 4)[0]
        table = blob[offset : offset + length]
        assert sum(table) & 0xFF == 0
        return table

    assert blob[:8] == b"RSD PTR "
    assert sum(blob[:20]) & 0xFF == 0
    assert sum(blob[:36]) & 0xFF == 0
    xsdt = read(struct.unpack_from("<Q", blob, 24)[0])
    found = {b"XSDT": xsdt}
    for (address,) in struct.iter_unpack("<Q", xsdt[36:]):
        table = read(address)
        found[table[:4]] = table
    description = read(struct.unpack_from("<Q", found[b"FACP"], 140)[0])
    found[description[:4]] = description
    return found


def test_all_are_reached_from_the_root() -> None:
    found = tables(build_tables(layout.ACPI, 4, DEVICES, serial=True))
    assert set(found) == {b"XSDT", b"FACP", b"APIC", b"DSDT"}


def test_the_fadt_is_hardware_reduced_and_names_our_registers() -> None:
    fadt = tables(build_tables(layout.ACPI, 1, [], serial=False))[b"FACP"]
    flags = struct.unpack_from("<I", fadt, 112)[0]
    assert (len(fadt), fadt[8]) == (276, 6)
    assert flags & 1 << 20
    assert flags & 1 << 10
    for offset, register in ((116, 0), (244, 1), (256, 2)):
        assert struct.unpack_from("<BBBBQ", fadt, offset) == (1, 8, 0, 1, layout.PORT_POWER + register)


@pytest.mark.parametrize("vcpus", [1, 2, 4, MAX_VCPUS])
def test_the_madt_has_an_apic_per_vcpu(vcpus: int) -> None:
    madt = tables(build_tables(layout.ACPI, vcpus, [], serial=False))[b"APIC"]
    body, rows = madt[44:], []
    while body:
        rows.append(body[: body[1]])
        body = body[body[1] :]
    local, (io_apic,) = [row for row in rows if row[0] == 0], [row for row in rows if row[0] == 1]
    assert [(row[2], row[3], row[4]) for row in local] == [(index, index, 1) for index in range(vcpus)]
    assert struct.unpack_from("<II", io_apic, 4) == (layout.IO_APIC, 0)


def test_the_most_devices_fit() -> None:
    count = MAX_DISKS + MAX_INTERFACES + 3
    devices = [MmioDevice(layout.VIRTIO_MMIO + n * 0x1000, 0x1000, 5 + n) for n in range(count)]
    blob = build_tables(layout.ACPI, MAX_VCPUS, devices, serial=True)
    assert len(blob) <= layout.ACPI_END - layout.ACPI
    with pytest.raises(ValueError, match="do not fit"):
        build_tables(layout.ACPI, 1, devices * 40, serial=True)


def disassembled(table: bytes, scratch: Path) -> str:
    if shutil.which("iasl") is None:
        pytest.skip("NOT CHECKED: iasl is not installed (package acpica-tools)")
    (scratch / "table.aml").write_bytes(table)
    run = subprocess.run(["iasl", "-d", "table.aml"], cwd=scratch, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return (scratch / "table.dsl").read_text()


@pytest.mark.parametrize("serial", [False, True])
def test_iasl_reads_and_compiles_the_dsdt(tmp_path: Path, serial: bool) -> None:
    source = disassembled(dsdt(DEVICES, serial=serial), tmp_path)
    for text in ('"LNRO0005"', "0xD0001000", "Interrupt (ResourceConsumer, Edge, ActiveHigh, Shared", "_S5", "V000"):
        assert text in source
    assert ("PNP0501" in source) is serial
    run = subprocess.run(["iasl", "-we", "table.dsl"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("name", [b"FACP", b"APIC", b"XSDT"])
def test_iasl_reads_the_other_tables(tmp_path: Path, name: bytes) -> None:
    source = disassembled(tables(build_tables(layout.ACPI, 2, DEVICES, serial=True))[name], tmp_path)
    assert "Invalid" not in source
