"""KVM: virtual machines as descriptors. Linux Documentation/virt/kvm/api.rst; x86_64 only.

    with Kvm() as kvm, kvm.create_vm() as vm:
        vm.set_memory(0, 0x1000, memory)
        with vm.create_vcpu(0) as vcpu:
            exit = vcpu.run()

A VM belongs to the process that created it: fork first. A vCPU belongs to the thread that runs it. `Vcpu.run` gives up
the GIL. Guest memory is any writable buffer that stays alive as long as the VM, page-aligned (an anonymous mmap).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from bireme.errors import Unsupported
from bireme.linux.ioctl import io, ioctl, ior, iow
from bireme.linux.layout import Layout
from bireme.linux.libc import SyscallError

if TYPE_CHECKING:
    from types import TracebackType

API_VERSION = 12

kvm_userspace_memory_region = Layout(
    "kvm_userspace_memory_region", "I slot flags; Q guest_phys_addr memory_size userspace_addr"
)
kvm_regs = Layout("kvm_regs", "Q rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags")
kvm_segment = Layout("kvm_segment", "Q base; I limit; H selector; B type present dpl db s l g avl unusable padding")
kvm_dtable = Layout("kvm_dtable", "Q base; H limit; 6s padding")
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
kvm_sregs = Layout(
    "kvm_sregs",
    f"{kvm_segment.size}s {' '.join(_SEGMENTS)}; {kvm_dtable.size}s gdt idt; "
    "Q cr0 cr2 cr3 cr4 cr8 efer apic_base; 32s interrupt_bitmap",
    packed=True,
)
kvm_run = Layout(
    "kvm_run",
    "B request_interrupt_window immediate_exit; 6s padding1; I exit_reason; B ready_for_interrupt_injection if_flag; "
    "H flags; Q cr8 apic_base",
)
_kvm_run_io = Layout("kvm_run.io", "B direction size; H port; I count; Q data_offset")
_kvm_run_mmio = Layout("kvm_run.mmio", "Q phys_addr; 8s data; I len; B is_write")
_kvm_run_fail = Layout("kvm_run.fail_entry", "Q hardware_entry_failure_reason; I cpu")
_EXIT_OFFSET = kvm_run.size

KVM_GET_API_VERSION = io(0xAE, 0x00)
KVM_CREATE_VM = io(0xAE, 0x01)
KVM_CHECK_EXTENSION = io(0xAE, 0x03)
KVM_GET_VCPU_MMAP_SIZE = io(0xAE, 0x04)
KVM_CREATE_VCPU = io(0xAE, 0x41)
KVM_SET_USER_MEMORY_REGION = iow(0xAE, 0x46, kvm_userspace_memory_region.size)
KVM_SET_TSS_ADDR = io(0xAE, 0x47)
KVM_RUN = io(0xAE, 0x80)
KVM_GET_REGS = ior(0xAE, 0x81, kvm_regs.size)
KVM_SET_REGS = iow(0xAE, 0x82, kvm_regs.size)
KVM_GET_SREGS = ior(0xAE, 0x83, kvm_sregs.size)
KVM_SET_SREGS = iow(0xAE, 0x84, kvm_sregs.size)


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
    KVM_EXIT_INTERNAL_ERROR = 17
    KVM_EXIT_SYSTEM_EVENT = 24


class Exit(NamedTuple):
    """One return from the guest. For I/O: `address` is the port or guest-physical address, `data` what the guest wrote
    (empty when it reads: give the answer with `Vcpu.answer` before the next run), `size` bytes each, `repeat` times."""

    reason: int
    address: int = 0
    data: bytes = b""
    size: int = 0
    repeat: int = 0
    is_write: bool = False


class _Handle:
    """A descriptor with ioctls, closed at the end of a with block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Kvm(_Handle):
    """/dev/kvm. Unsupported when it is not there, not ours to open, or of another API version."""

    def __init__(self, path: str = "/dev/kvm") -> None:
        try:
            super().__init__(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise Unsupported(
                f"{path}: {(error.strerror or '').lower()}",
                subject="kvm",
                hint="hardware virtualisation has to be enabled and the kvm modules loaded",
            ) from error
        version = ioctl(self.fd, KVM_GET_API_VERSION, subject="KVM_GET_API_VERSION")
        if version != API_VERSION:
            self.close()
            raise Unsupported(f"KVM API version {version}, not {API_VERSION}", subject="kvm")

    def check_extension(self, number: int) -> int:
        """KVM_CHECK_EXTENSION: 0 = no; else yes, or a number."""
        return ioctl(self.fd, KVM_CHECK_EXTENSION, number, subject="KVM_CHECK_EXTENSION")

    def create_vm(self) -> Vm:
        run_size = ioctl(self.fd, KVM_GET_VCPU_MMAP_SIZE, subject="KVM_GET_VCPU_MMAP_SIZE")
        return Vm(ioctl(self.fd, KVM_CREATE_VM, 0, subject="KVM_CREATE_VM"), run_size)


class Vm(_Handle):
    """A virtual machine."""

    def __init__(self, fd: int, run_size: int) -> None:
        super().__init__(fd)
        self._run_size = run_size
        self._memory: dict[int, Any] = {}

    def set_memory(self, slot: int, guest_phys_addr: int, memory: mmap.mmap) -> None:
        """Map a buffer at a guest-physical address. Both page-aligned."""
        view = (ctypes.c_char * len(memory)).from_buffer(memory)
        region = kvm_userspace_memory_region.pack(
            slot=slot,
            guest_phys_addr=guest_phys_addr,
            memory_size=len(memory),
            userspace_addr=ctypes.addressof(view),
        )
        ioctl(self.fd, KVM_SET_USER_MEMORY_REGION, bytearray(region), subject="KVM_SET_USER_MEMORY_REGION")
        self._memory[slot] = view

    def create_vcpu(self, index: int) -> Vcpu:
        return Vcpu(ioctl(self.fd, KVM_CREATE_VCPU, index, subject="KVM_CREATE_VCPU"), self._run_size)

    def close(self) -> None:
        super().close()
        self._memory.clear()


class Vcpu(_Handle):
    """One virtual processor with its shared kvm_run page."""

    def __init__(self, fd: int, run_size: int) -> None:
        super().__init__(fd)
        self._run = mmap.mmap(fd, run_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def regs(self) -> dict[str, int]:
        block = bytearray(kvm_regs.size)
        ioctl(self.fd, KVM_GET_REGS, block, subject="KVM_GET_REGS")
        return kvm_regs.unpack(block)

    def set_regs(self, **values: int) -> None:
        """Set all general registers; those not given become zero (rflags: 2, its reserved bit)."""
        values.setdefault("rflags", 2)
        ioctl(self.fd, KVM_SET_REGS, bytearray(kvm_regs.pack(**values)), subject="KVM_SET_REGS")

    def sregs(self) -> dict[str, Any]:
        """Segments and control registers; segments are dictionaries."""
        block = bytearray(kvm_sregs.size)
        ioctl(self.fd, KVM_GET_SREGS, block, subject="KVM_GET_SREGS")
        found = kvm_sregs.unpack(block)
        for name in _SEGMENTS:
            found[name] = kvm_segment.unpack(found[name])
        for name in ("gdt", "idt"):
            found[name] = kvm_dtable.unpack(found[name])
        return found

    def set_sregs(self, values: dict[str, Any]) -> None:
        """What `sregs` returned, changed."""
        packed = dict(values)
        for name in _SEGMENTS:
            packed[name] = kvm_segment.pack(**values[name])
        for name in ("gdt", "idt"):
            packed[name] = kvm_dtable.pack(**values[name])
        ioctl(self.fd, KVM_SET_SREGS, bytearray(kvm_sregs.pack(**packed)), subject="KVM_SET_SREGS")

    def run(self) -> Exit:
        """Run the guest until it needs us; a signal gives KVM_EXIT_INTR."""
        try:
            ioctl(self.fd, KVM_RUN, 0, subject="KVM_RUN")
        except SyscallError as error:
            if error.errno != errno.EINTR:
                raise
            return Exit(ExitReason.KVM_EXIT_INTR)
        reason = int(kvm_run.unpack(self._run)["exit_reason"])
        if reason == ExitReason.KVM_EXIT_IO:
            return self._io_exit()
        if reason == ExitReason.KVM_EXIT_MMIO:
            found = _kvm_run_mmio.unpack(self._run, _EXIT_OFFSET)
            data = found["data"][: found["len"]] if found["is_write"] else b""
            return Exit(reason, found["phys_addr"], data, found["len"], 1, bool(found["is_write"]))
        if reason == ExitReason.KVM_EXIT_FAIL_ENTRY:
            found = _kvm_run_fail.unpack(self._run, _EXIT_OFFSET)
            return Exit(reason, found["hardware_entry_failure_reason"])
        return Exit(reason)

    def _io_exit(self) -> Exit:
        found = _kvm_run_io.unpack(self._run, _EXIT_OFFSET)
        start, length = found["data_offset"], found["size"] * found["count"]
        data = self._run[start : start + length] if found["direction"] else b""
        return Exit(
            ExitReason.KVM_EXIT_IO, found["port"], data, found["size"], found["count"], bool(found["direction"])
        )

    def answer(self, data: bytes) -> None:
        """What the guest's pending read (port or memory) gets."""
        reason = kvm_run.unpack(self._run)["exit_reason"]
        if reason == ExitReason.KVM_EXIT_IO:
            start = _kvm_run_io.unpack(self._run, _EXIT_OFFSET)["data_offset"]
        else:
            start = _EXIT_OFFSET + _kvm_run_mmio.offset("data")
        self._run[start : start + len(data)] = data

    def close(self) -> None:
        super().close()
        self._run.close()
