"""Distributions' kernels, unmodified, from the first instruction to a process that powers the machine off."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import bootguest
from tests.support.bootguest import boot, kernel

pytestmark = pytest.mark.needs_kvm_linux

Scratch = tuple[Path, Path]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    directory = tmp_path_factory.mktemp("boot")
    return directory, bootguest.make_initrd(directory)


@pytest.mark.parametrize(
    ("flavour", "form", "vcpus"),
    [
        ("generic", "vmlinux", 1),
        ("generic", "vmlinux", 2),
        ("generic", "vmlinux", 4),
        ("generic", "bzimage", 1),
        ("cloud", "bzimage", 2),
        ("cloud", "vmlinux", 4),
    ],
)
def test_a_kernel_boots_to_a_power_off(scratch: Scratch, flavour: str, form: str, vcpus: int) -> None:
    directory, initrd = scratch
    image = kernel(flavour, form, directory)
    run = boot(image, initrd, "--serial", "--memory", "256M", "--vcpus", str(vcpus))
    assert run.guest["release"] == bootguest.release(flavour)
    assert run.guest["cpus"] == str(vcpus)
    assert run.explained["ended"]["kind"] == "power-off"
    assert run.code == 0
