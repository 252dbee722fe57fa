"""/dev/kvm and the virtual machine: memory, interrupt controllers, eventfds into and out of the guest."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Any

from bireme.errors import Unsupported
from bireme.linux.ioctl import ioctl
from bireme.linux.kvm import uapi
from bireme.linux.kvm.handle import Handle
from bireme.linux.kvm.vcpu import Vcpu
from bireme.linux.libc import SyscallError, syscall
from bireme.linux.numbers import optional_number

if TYPE_CHECKING:
    import mmap

_IOCTL = optional_number("ioctl")
_MAX_CPUID_ENTRIES = 256


class Kvm(Handle):
    """/dev/kvm. Unsupported when it is not there, not ours to open, or of another API version."""

    def __init__(self, path: str = "/dev/kvm", *, fd: int = -1) -> None:
        super().__init__(fd if fd >= 0 else _open(path))
        version = ioctl(self.fd, uapi.KVM_GET_API_VERSION, subject="KVM_GET_API_VERSION")
        if version != uapi.API_VERSION:
            self.close()
            raise Unsupported(f"KVM API version {version}, not {uapi.API_VERSION}", subject="kvm")

    def check_extension(self, number: int) -> int:
        """KVM_CHECK_EXTENSION: 0 = no; else yes, or a number."""
        return ioctl(self.fd, uapi.KVM_CHECK_EXTENSION, number, subject="KVM_CHECK_EXTENSION")

    def supported_cpuid(self) -> list[dict[str, Any]]:
        """Every CPUID leaf that KVM and this processor can give a guest: dictionaries of kvm_cpuid_entry2."""
        head = uapi.kvm_cpuid2
        block = bytearray(head.size + _MAX_CPUID_ENTRIES * uapi.kvm_cpuid_entry2.size)
        head.pack_into(block, nent=_MAX_CPUID_ENTRIES)
        ioctl(self.fd, uapi.KVM_GET_SUPPORTED_CPUID, block, subject="KVM_GET_SUPPORTED_CPUID")
        size = uapi.kvm_cpuid_entry2.size
        return [uapi.kvm_cpuid_entry2.unpack(block, head.size + at * size) for at in range(head.unpack(block)["nent"])]

    def create_vm(self) -> Vm:
        run_size = ioctl(self.fd, uapi.KVM_GET_VCPU_MMAP_SIZE, subject="KVM_GET_VCPU_MMAP_SIZE")
        while True:
            try:
                return Vm(ioctl(self.fd, uapi.KVM_CREATE_VM, 0, subject="KVM_CREATE_VM"), run_size)
            except SyscallError as error:
                if error.errno != errno.EINTR:
                    raise


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise Unsupported(
            f"{path}: {(error.strerror or '').lower()}",
            subject="kvm",
            hint="hardware virtualisation has to be enabled and the kvm modules loaded",
        ) from error


class Vm(Handle):
    """A virtual machine."""

    def __init__(self, fd: int, run_size: int) -> None:
        super().__init__(fd)
        self._run_size = run_size
        self._memory: dict[int, Any] = {}

    def set_memory(
        self,
        slot: int,
        guest_phys_addr: int,
        memory: mmap.mmap,
        offset: int = 0,
        size_bytes: int = 0,
        *,
        read_only: bool = False,
    ) -> None:
        """Map a part of a buffer (all of it when no size is given) at a guest-physical address. All page-aligned.

        `read_only`: the guest's reads are plain loads, its writes exit as for registers (KVM_CAP_READONLY_MEM).
        """
        view = (ctypes.c_char * len(memory)).from_buffer(memory)
        region = uapi.kvm_userspace_memory_region.pack(
            slot=slot,
            flags=uapi.KVM_MEM_READONLY if read_only else 0,
            guest_phys_addr=guest_phys_addr,
            memory_size=size_bytes or len(memory) - offset,
            userspace_addr=ctypes.addressof(view) + offset,
        )
        ioctl(self.fd, uapi.KVM_SET_USER_MEMORY_REGION, bytearray(region), subject="KVM_SET_USER_MEMORY_REGION")
        self._memory[slot] = view

    def set_tss_address(self, address: int) -> None:
        """Three pages that the guest never sees, which Intel needs for real mode. KVM_SET_TSS_ADDR."""
        # Python's ioctl takes an integer argument as a signed C int only.
        syscall("ioctl", _IOCTL, self.fd, uapi.KVM_SET_TSS_ADDR, address, subject="KVM_SET_TSS_ADDR")

    def set_identity_map_address(self, address: int) -> None:
        """One more page of that kind; before the first vCPU. KVM_SET_IDENTITY_MAP_ADDR."""
        block = bytearray(address.to_bytes(8, "little"))
        ioctl(self.fd, uapi.KVM_SET_IDENTITY_MAP_ADDR, block, subject="KVM_SET_IDENTITY_MAP_ADDR")

    def create_irqchip(self) -> None:
        """Two PICs, an I/O APIC and a local APIC per vCPU, in the kernel; before the first vCPU."""
        ioctl(self.fd, uapi.KVM_CREATE_IRQCHIP, 0, subject="KVM_CREATE_IRQCHIP")

    def create_pit(self) -> None:
        """The 8254 timer, in the kernel, with a port 0x61 that pretends to be a speaker."""
        block = bytearray(uapi.kvm_pit_config.pack(flags=uapi.KVM_PIT_SPEAKER_DUMMY))
        ioctl(self.fd, uapi.KVM_CREATE_PIT2, block, subject="KVM_CREATE_PIT2")

    def irq_line(self, gsi: int, level: int) -> None:
        """Raise (1) or lower (0) an interrupt line."""
        ioctl(
            self.fd, uapi.KVM_IRQ_LINE, bytearray(uapi.kvm_irq_level.pack(irq=gsi, level=level)), subject=f"gsi {gsi}"
        )

    def irqfd(self, gsi: int, eventfd: int) -> None:
        """A write to the eventfd pulses the interrupt line (an edge)."""
        block = bytearray(uapi.kvm_irqfd.pack(fd=eventfd, gsi=gsi))
        ioctl(self.fd, uapi.KVM_IRQFD, block, subject=f"KVM_IRQFD gsi {gsi}")

    def ioeventfd(self, address: int, size: int, eventfd: int, match: int | None = None, *, pio: bool = False) -> None:
        """A guest's write of `size` bytes (of the value `match`, if given) signals the eventfd instead of an exit."""
        flags = uapi.KVM_IOEVENTFD_FLAG_PIO if pio else 0
        if match is not None:
            flags |= uapi.KVM_IOEVENTFD_FLAG_DATAMATCH
        block = uapi.kvm_ioeventfd.pack(datamatch=match or 0, addr=address, len=size, fd=eventfd, flags=flags)
        ioctl(self.fd, uapi.KVM_IOEVENTFD, bytearray(block), subject=f"KVM_IOEVENTFD {address:#x}")

    def create_vcpu(self, index: int) -> Vcpu:
        return Vcpu(ioctl(self.fd, uapi.KVM_CREATE_VCPU, index, subject="KVM_CREATE_VCPU"), self._run_size)

    def close(self) -> None:
        super().close()
        self._memory.clear()
