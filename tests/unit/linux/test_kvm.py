"""Numbers against the headers anywhere; with /dev/kvm a guest of a few bytes in real mode."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bireme.errors import Unsupported
from bireme.linux import kvm
from bireme.linux.kvm import ExitReason, uapi


def test_sizes_and_numbers_are_the_headers() -> None:
    assert uapi.kvm_regs.size == 144
    assert uapi.kvm_segment.size == 24
    assert uapi.kvm_sregs.size == 312
    assert uapi.kvm_run.size == 32
    assert uapi.kvm_run.offset("exit_reason") == 8
    assert uapi.KVM_SET_USER_MEMORY_REGION == 0x4020AE46
    assert uapi.KVM_GET_REGS == 0x8090AE81
    assert uapi.KVM_SET_REGS == 0x4090AE82
    assert uapi.KVM_GET_SREGS == 0x8138AE83
    assert uapi.KVM_SET_SREGS == 0x4138AE84
    assert uapi.KVM_RUN == 0xAE80


def test_no_device_is_unsupported_with_a_hint() -> None:
    with pytest.raises(Unsupported, match="virtualisation"):
        kvm.Kvm("/nonexistent/kvm")


PROGRAM = bytes(
    [
        0xBA, 0xF8, 0x03,  # mov dx, 0x3f8
        0x00, 0xD8,        # add al, bl
        0x04, 0x30,        # add al, '0'
        0xEE,              # out dx, al
        0xEC,              # in al, dx
        0xA2, 0x00, 0x90,  # mov [0x9000], al: no memory there, so MMIO
        0xF4,              # hlt
    ]
)  # fmt: skip


@pytest.fixture
def vcpu() -> Iterator[kvm.Vcpu]:
    memory = mmap.mmap(-1, 0x1000, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    memory[: len(PROGRAM)] = PROGRAM
    with ExitStack() as stack:
        device = stack.enter_context(kvm.Kvm())
        vm = stack.enter_context(device.create_vm())
        vm.set_memory(0, 0x1000, memory)
        vcpu = stack.enter_context(vm.create_vcpu(0))
        sregs = vcpu.sregs()
        sregs["cs"].update(base=0, selector=0)
        vcpu.set_sregs(sregs)
        vcpu.set_regs(rip=0x1000, rax=2, rbx=2)
        yield vcpu


@pytest.mark.needs_kvm
def test_a_guest_adds_writes_reads_and_halts(vcpu: kvm.Vcpu) -> None:
    assert vcpu.run() == kvm.Exit(ExitReason.KVM_EXIT_IO, 0x3F8, b"4", 1, 1, True)
    assert vcpu.run() == kvm.Exit(ExitReason.KVM_EXIT_IO, 0x3F8, b"", 1, 1, False)
    vcpu.answer(b"!")
    assert vcpu.run() == kvm.Exit(ExitReason.KVM_EXIT_MMIO, 0x9000, b"!", 1, 1, True)
    assert vcpu.run().reason == ExitReason.KVM_EXIT_HLT
    assert vcpu.regs()["rip"] == 0x1000 + len(PROGRAM)
