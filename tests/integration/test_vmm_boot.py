"""Distributions' kernels, unmodified, from the first instruction to a process that powers the machine off."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import bootguest
from tests.support.bootguest import KERNELS, boot, kernel

pytestmark = pytest.mark.needs_kvm_linux


class Scratch(NamedTuple):
    directory: Path
    initrd: Path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    directory = tmp_path_factory.mktemp("boot")
    return Scratch(directory, bootguest.make_initrd(directory))


@pytest.mark.parametrize(
    ("flavour", "form", "vcpus", "memory_mib"),
    [
        ("generic", "vmlinux", 1, 256),
        ("generic", "vmlinux", 4, 3200),
        ("generic", "bzimage", 2, 256),
        pytest.param("generic", "vmlinux", 2, 256, marks=pytest.mark.slow),
        pytest.param("cloud", "bzimage", 1, 256, marks=pytest.mark.slow),
        pytest.param("cloud", "bzimage", 2, 256, marks=pytest.mark.slow),
        pytest.param("cloud", "vmlinux", 1, 256, marks=pytest.mark.slow),
        pytest.param("cloud", "vmlinux", 4, 256, marks=pytest.mark.slow),
    ],
)
def test_a_kernel_boots_to_a_power_off(scratch: Scratch, flavour: str, form: str, vcpus: int, memory_mib: int) -> None:
    """3200 MiB do not fit below the hole: some lie above 4 GiB. The cloud kernel's vmlinux boots in the other files."""
    options = ("--serial", "--memory", f"{memory_mib}M", "--vcpus", str(vcpus))
    run = boot(kernel(flavour, form), scratch.initrd, *options)
    assert run.guest["release"] == bootguest.release(flavour)
    assert run.guest["cpus"] == str(vcpus)
    assert memory_mib * 0.74 <= int(run.guest["memory"]) <= memory_mib
    assert int(run.guest["year"]) >= 2024
    assert run.explained["ended"]["kind"] == "power-off"
    assert run.code == 0


@pytest.fixture(scope="module")
def vmlinux() -> Path:
    return kernel("generic", "vmlinux")


@pytest.mark.parametrize(
    ("word", "kind", "code"),
    [("end=restart", "reset", 0), ("end=panic", "reset", 0), ("end=number", "debug-exit", 2)],
)
def test_other_ends(scratch: Scratch, vmlinux: Path, word: str, kind: str, code: int) -> None:
    options = ("--memory", "128M", "--vcpus", "2", "--debug-exit", "--append", word)
    run = boot(vmlinux, scratch.initrd, *options)
    assert run.explained["ended"]["kind"] == kind
    assert run.code == code


def test_a_boot_without_a_console_hardly_exits(scratch: Scratch, vmlinux: Path) -> None:
    """Each exit is Python's work. What a kernel that was told what there is still probes, is a hundred at most."""
    run = boot(vmlinux, scratch.initrd, "--memory", "128M")
    assert run.code == 0
    assert sum(run.explained["vcpus"][0]["exits"].values()) < 100


def test_a_spinning_guest_is_stopped(scratch: Scratch, vmlinux: Path) -> None:
    options = ("--memory", "128M", "--vcpus", "2", "--append", "end=spin", "--timeout", "1")
    assert boot(vmlinux, scratch.initrd, *options).explained["ended"]["kind"] == "stopped"


def test_devices_are_found_and_every_process_is_jailed(scratch: Scratch, vmlinux: Path) -> None:
    """The kernel has no driver for them here; that it names them is enough."""
    disk = scratch.directory / "disk"
    disk.write_bytes(bytes(1 << 20))
    options = ("--disk", str(disk), "--rng", "--jail", "123456", "--memory", "128M", "--serial", "--append", "end=off")
    run = boot(vmlinux, scratch.initrd, *options)
    assert run.code == 0
    assert [device["gsi"] for device in run.explained["devices"]] == [5, 6, 7]


def test_a_truncated_kernel_is_refused(scratch: Scratch) -> None:
    cut = scratch.directory / "cut"
    with open(KERNELS / "generic" / "vmlinuz", "rb") as file:
        cut.write_bytes(file.read(1 << 20))
    run = boot(cut, scratch.initrd)
    assert run.code == 255
    assert "cut off" in run.errors


def test_too_little_memory_says_how_much(scratch: Scratch, vmlinux: Path) -> None:
    run = boot(vmlinux, scratch.initrd, "--memory", "64M")
    assert run.code == 255
    assert "too little memory: 64 MiB" in run.errors
    assert "at least" in run.errors
