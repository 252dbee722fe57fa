"""Numbers and structs of uapi linux/kvm.h and asm/kvm.h (x86_64), as far as we use them; tested against the headers."""

from __future__ import annotations

import struct
from enum import IntEnum

from bireme.linux.ioctl import io, ior, iow, iowr
from bireme.linux.layout import Layout

API_VERSION = 12

SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")

kvm_userspace_memory_region = Layout(
    "kvm_userspace_memory_region", "I slot flags; Q guest_phys_addr memory_size userspace_addr"
)
kvm_regs = Layout("kvm_regs", "Q rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags")
kvm_segment = Layout("kvm_segment", "Q base; I limit; H selector; B type present dpl db s l g avl unusable padding")
kvm_dtable = Layout("kvm_dtable", "Q base; H limit; 6s padding")
kvm_sregs = Layout(
    "kvm_sregs",
    f"{kvm_segment.size}s {' '.join(SEGMENTS)}; {kvm_dtable.size}s gdt idt; "
    "Q cr0 cr2 cr3 cr4 cr8 efer apic_base; 32s interrupt_bitmap",
    packed=True,
)
kvm_fpu = Layout(
    "kvm_fpu", "128s fpr; H fcw fsw; B ftwx pad1; H last_opcode; Q last_ip last_dp; 256s xmm; I mxcsr pad2"
)
kvm_msr_entry = Layout("kvm_msr_entry", "I index reserved; Q data")
kvm_cpuid_entry2 = Layout("kvm_cpuid_entry2", "I function index flags eax ebx ecx edx; 12s padding")
kvm_msrs = Layout("kvm_msrs", "I nmsrs pad")
kvm_cpuid2 = Layout("kvm_cpuid2", "I nent padding")
kvm_pit_config = Layout("kvm_pit_config", "I flags; 60s pad")
kvm_irqfd = Layout("kvm_irqfd", "I fd gsi flags resamplefd; 16s pad")
kvm_irq_level = Layout("kvm_irq_level", "I irq level")
kvm_ioeventfd = Layout("kvm_ioeventfd", "Q datamatch addr; I len; i fd; I flags; 36s pad")
kvm_lapic_state_size = 0x400
kvm_run = Layout(
    "kvm_run",
    "B request_interrupt_window immediate_exit; 6s padding1; I exit_reason; B ready_for_interrupt_injection if_flag; "
    "H flags; Q cr8 apic_base",
)
kvm_run_io = Layout("kvm_run.io", "B direction size; H port; I count; Q data_offset")
kvm_run_mmio = Layout("kvm_run.mmio", "Q phys_addr; 8s data; I len; B is_write")
kvm_run_fail = Layout("kvm_run.fail_entry", "Q hardware_entry_failure_reason; I cpu")
kvm_run_event = Layout("kvm_run.system_event", "I type ndata")

EXIT_OFFSET = kvm_run.size
"""Where the union of kvm_run begins: what it holds depends on exit_reason."""
IMMEDIATE_EXIT_OFFSET = kvm_run.offset("immediate_exit")

exit_reason = struct.Struct(f"{kvm_run.offset('exit_reason')}xI")
run_io = struct.Struct("BBHIQ")
run_mmio = struct.Struct("Q8sIB")
"""The hot ones, without names: reason; direction, size, port, count, data_offset; address, data, length, is_write."""

KVM_GET_API_VERSION = io(0xAE, 0x00)
KVM_CREATE_VM = io(0xAE, 0x01)
KVM_CHECK_EXTENSION = io(0xAE, 0x03)
KVM_GET_VCPU_MMAP_SIZE = io(0xAE, 0x04)
KVM_GET_SUPPORTED_CPUID = iowr(0xAE, 0x05, 8)
KVM_CREATE_VCPU = io(0xAE, 0x41)
KVM_SET_USER_MEMORY_REGION = iow(0xAE, 0x46, kvm_userspace_memory_region.size)
KVM_SET_TSS_ADDR = io(0xAE, 0x47)
KVM_SET_IDENTITY_MAP_ADDR = iow(0xAE, 0x48, 8)
KVM_CREATE_IRQCHIP = io(0xAE, 0x60)
KVM_IRQ_LINE = iow(0xAE, 0x61, kvm_irq_level.size)
KVM_IRQFD = iow(0xAE, 0x76, kvm_irqfd.size)
KVM_CREATE_PIT2 = iow(0xAE, 0x77, kvm_pit_config.size)
KVM_IOEVENTFD = iow(0xAE, 0x79, kvm_ioeventfd.size)
KVM_RUN = io(0xAE, 0x80)
KVM_GET_REGS = ior(0xAE, 0x81, kvm_regs.size)
KVM_SET_REGS = iow(0xAE, 0x82, kvm_regs.size)
KVM_GET_SREGS = ior(0xAE, 0x83, kvm_sregs.size)
KVM_SET_SREGS = iow(0xAE, 0x84, kvm_sregs.size)
KVM_GET_MSRS = iowr(0xAE, 0x88, 8)
KVM_SET_MSRS = iow(0xAE, 0x89, 8)
KVM_SET_FPU = iow(0xAE, 0x8D, kvm_fpu.size)
KVM_GET_LAPIC = ior(0xAE, 0x8E, kvm_lapic_state_size)
KVM_SET_LAPIC = iow(0xAE, 0x8F, kvm_lapic_state_size)
KVM_SET_CPUID2 = iow(0xAE, 0x90, 8)
KVM_GET_MP_STATE = ior(0xAE, 0x98, 4)
KVM_SET_MP_STATE = iow(0xAE, 0x99, 4)
KVM_GET_TSC_KHZ = io(0xAE, 0xA3)
KVM_KVMCLOCK_CTRL = io(0xAE, 0xAD)

KVM_CAP_IRQCHIP = 0
KVM_CAP_USER_MEMORY = 3
KVM_CAP_SET_TSS_ADDR = 4
KVM_CAP_EXT_CPUID = 7
KVM_CAP_IRQFD = 32
KVM_CAP_PIT2 = 33
KVM_CAP_SET_IDENTITY_MAP_ADDR = 37
KVM_CAP_IOEVENTFD = 36
KVM_CAP_MAX_VCPUS = 66
KVM_CAP_TSC_DEADLINE_TIMER = 72
KVM_CAP_KVMCLOCK_CTRL = 76
KVM_CAP_READONLY_MEM = 81
KVM_CAP_IMMEDIATE_EXIT = 136

KVM_MEM_READONLY = 2
KVM_PIT_SPEAKER_DUMMY = 1
KVM_IOEVENTFD_FLAG_DATAMATCH = 1
KVM_IOEVENTFD_FLAG_PIO = 2
KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1


class MpState(IntEnum):
    """KVM_MP_STATE_*: whether a vCPU runs. With the in-kernel APIC all but the first begin UNINITIALIZED."""

    KVM_MP_STATE_RUNNABLE = 0
    KVM_MP_STATE_UNINITIALIZED = 1
    KVM_MP_STATE_INIT_RECEIVED = 2
    KVM_MP_STATE_HALTED = 3
    KVM_MP_STATE_SIPI_RECEIVED = 4


class ExitReason(IntEnum):
    """KVM_EXIT_*: why KVM_RUN came back."""

    KVM_EXIT_UNKNOWN = 0
    KVM_EXIT_EXCEPTION = 1
    KVM_EXIT_IO = 2
    KVM_EXIT_HYPERCALL = 3
    KVM_EXIT_DEBUG = 4
    KVM_EXIT_HLT = 5
    KVM_EXIT_MMIO = 6
    KVM_EXIT_IRQ_WINDOW_OPEN = 7
    KVM_EXIT_SHUTDOWN = 8
    KVM_EXIT_FAIL_ENTRY = 9
    KVM_EXIT_INTR = 10
    KVM_EXIT_SET_TPR = 11
    KVM_EXIT_TPR_ACCESS = 12
    KVM_EXIT_NMI = 16
    KVM_EXIT_INTERNAL_ERROR = 17
    KVM_EXIT_WATCHDOG = 21
    KVM_EXIT_SYSTEM_EVENT = 24
    KVM_EXIT_IOAPIC_EOI = 26
    KVM_EXIT_X86_RDMSR = 29
    KVM_EXIT_X86_WRMSR = 30
    KVM_EXIT_DIRTY_RING_FULL = 31
    KVM_EXIT_X86_BUS_LOCK = 33
    KVM_EXIT_NOTIFY = 37
    KVM_EXIT_MEMORY_FAULT = 39
