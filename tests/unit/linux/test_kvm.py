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


HEADER = {
    "KVM_GET_SUPPORTED_CPUID": 0xC008AE05,
    "KVM_SET_TSS_ADDR": 0xAE47,
    "KVM_SET_IDENTITY_MAP_ADDR": 0x4008AE48,
    "KVM_CREATE_IRQCHIP": 0xAE60,
    "KVM_IRQ_LINE": 0x4008AE61,
    "KVM_IRQFD": 0x4020AE76,
    "KVM_CREATE_PIT2": 0x4040AE77,
    "KVM_IOEVENTFD": 0x4040AE79,
    "KVM_GET_MSRS": 0xC008AE88,
    "KVM_SET_MSRS": 0x4008AE89,
    "KVM_SET_FPU": 0x41A0AE8D,
    "KVM_GET_LAPIC": 0x8400AE8E,
    "KVM_SET_LAPIC": 0x4400AE8F,
    "KVM_SET_CPUID2": 0x4008AE90,
    "KVM_GET_MP_STATE": 0x8004AE98,
    "KVM_SET_MP_STATE": 0x4004AE99,
    "KVM_GET_TSC_KHZ": 0xAEA3,
    "KVM_KVMCLOCK_CTRL": 0xAEAD,
}


@pytest.mark.parametrize("name", sorted(HEADER))
def test_ioctl_numbers(name: str) -> None:
    assert getattr(uapi, name) == HEADER[name]


def test_structs_of_the_hot_path_are_the_named_ones() -> None:
    assert [uapi.run_io.size, uapi.run_mmio.size] == [16, 21]
    assert uapi.kvm_run_io.size == uapi.run_io.size
    assert uapi.kvm_run_mmio.offset("is_write") == 20
    assert uapi.exit_reason.size == uapi.kvm_run.offset("exit_reason") + 4


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


@pytest.mark.needs_kvm
def test_a_requested_exit_comes_before_the_guest_runs(vcpu: kvm.Vcpu) -> None:
    vcpu.request_exit()
    assert vcpu.run().reason == ExitReason.KVM_EXIT_INTR
    assert vcpu.regs()["rip"] == 0x1000
    vcpu.request_exit(False)
    assert vcpu.run().reason == ExitReason.KVM_EXIT_IO


@pytest.mark.needs_kvm
def test_registers_by_number(vcpu: kvm.Vcpu) -> None:
    assert vcpu.set_msrs({0x174: 8, 0x175: 0x1234}) == 2
    assert vcpu.msrs([0x174, 0x175]) == {0x174: 8, 0x175: 0x1234}
    assert vcpu.tsc_khz() >= 0
    vcpu.kvmclock_ctrl()
