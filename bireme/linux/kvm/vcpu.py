"""One virtual processor: its registers, and KVM_RUN with the page it shares with the kernel.

`enter` is the hot path: it runs the guest and says why it stopped; the reader then takes the details from `run_page`
with the structs of uapi.py. `run` is the comfortable form of the same for tests and small programs. Both give up the
GIL while the guest runs.

To stop a guest from another thread: `request_exit`, then a signal to the thread. The flag covers the moment between
the last look at one's own state and KVM_RUN, in which a signal alone would be lost (api.rst, immediate_exit).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
from typing import TYPE_CHECKING, Any, NamedTuple

from bireme.linux.ioctl import ioctl
from bireme.linux.kvm import uapi
from bireme.linux.kvm.handle import Handle
from bireme.linux.kvm.uapi import EXIT_OFFSET, SEGMENTS, ExitReason
from bireme.linux.libc import SyscallError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_fcntl_ioctl = fcntl.ioctl
_KVM_RUN = uapi.KVM_RUN
_INTR = int(ExitReason.KVM_EXIT_INTR)
_reason_of = uapi.exit_reason.unpack_from


class Exit(NamedTuple):
    """One return from the guest. For I/O: `address` is the port or guest-physical address, `data` what the guest wrote
    (empty when it reads: give the answer with `Vcpu.answer` before the next run), `size` bytes each, `repeat` times."""

    reason: int
    address: int = 0
    data: bytes = b""
    size: int = 0
    repeat: int = 0
    is_write: bool = False


class Vcpu(Handle):
    """One virtual processor with its shared kvm_run page."""

    def __init__(self, fd: int, run_size: int) -> None:
        super().__init__(fd)
        self.run_page = mmap.mmap(fd, run_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def enter(self) -> int:
        """Run the guest until it needs us: the exit reason; KVM_EXIT_INTR after a signal or a requested exit."""
        try:
            _fcntl_ioctl(self.fd, _KVM_RUN, 0)
        except OSError as error:
            if error.errno not in (errno.EINTR, errno.EAGAIN):
                raise SyscallError(error.errno or 0, "ioctl", "KVM_RUN") from None
            return _INTR
        return int(_reason_of(self.run_page)[0])

    def request_exit(self, on: bool = True) -> None:
        """KVM_RUN comes back at once for as long as this is on (any thread may say so)."""
        self.run_page[uapi.IMMEDIATE_EXIT_OFFSET] = int(on)

    def run(self) -> Exit:
        """As `enter`, with the details of port and memory accesses."""
        reason = self.enter()
        if reason == ExitReason.KVM_EXIT_IO:
            return self._io_exit()
        if reason == ExitReason.KVM_EXIT_MMIO:
            address, data, length, is_write = uapi.run_mmio.unpack_from(self.run_page, EXIT_OFFSET)
            return Exit(reason, address, data[:length] if is_write else b"", length, 1, bool(is_write))
        if reason == ExitReason.KVM_EXIT_FAIL_ENTRY:
            found = uapi.kvm_run_fail.unpack(self.run_page, EXIT_OFFSET)
            return Exit(reason, found["hardware_entry_failure_reason"])
        return Exit(reason)

    def _io_exit(self) -> Exit:
        direction, size, port, count, start = uapi.run_io.unpack_from(self.run_page, EXIT_OFFSET)
        data = self.run_page[start : start + size * count] if direction else b""
        return Exit(ExitReason.KVM_EXIT_IO, port, data, size, count, bool(direction))

    def answer(self, data: bytes) -> None:
        """What the guest's pending read (port or memory) gets."""
        if _reason_of(self.run_page)[0] == ExitReason.KVM_EXIT_IO:
            start = uapi.kvm_run_io.unpack(self.run_page, EXIT_OFFSET)["data_offset"]
        else:
            start = EXIT_OFFSET + uapi.kvm_run_mmio.offset("data")
        self.run_page[start : start + len(data)] = data

    def regs(self) -> dict[str, int]:
        block = bytearray(uapi.kvm_regs.size)
        ioctl(self.fd, uapi.KVM_GET_REGS, block, subject="KVM_GET_REGS")
        return uapi.kvm_regs.unpack(block)

    def set_regs(self, **values: int) -> None:
        """Set all general registers; those not given become zero (rflags: 2, its reserved bit)."""
        values.setdefault("rflags", 2)
        ioctl(self.fd, uapi.KVM_SET_REGS, bytearray(uapi.kvm_regs.pack(**values)), subject="KVM_SET_REGS")

    def sregs(self) -> dict[str, Any]:
        """Segments and control registers; segments are dictionaries."""
        block = bytearray(uapi.kvm_sregs.size)
        ioctl(self.fd, uapi.KVM_GET_SREGS, block, subject="KVM_GET_SREGS")
        found = uapi.kvm_sregs.unpack(block)
        for name in SEGMENTS:
            found[name] = uapi.kvm_segment.unpack(found[name])
        for name in ("gdt", "idt"):
            found[name] = uapi.kvm_dtable.unpack(found[name])
        return found

    def set_sregs(self, values: dict[str, Any]) -> None:
        """What `sregs` returned, changed."""
        packed = dict(values)
        for name in SEGMENTS:
            packed[name] = uapi.kvm_segment.pack(**values[name])
        for name in ("gdt", "idt"):
            packed[name] = uapi.kvm_dtable.pack(**values[name])
        ioctl(self.fd, uapi.KVM_SET_SREGS, bytearray(uapi.kvm_sregs.pack(**packed)), subject="KVM_SET_SREGS")

    def set_fpu(self, **values: int) -> None:
        """The x87 and SSE state; members of kvm_fpu not given become zero."""
        ioctl(self.fd, uapi.KVM_SET_FPU, bytearray(uapi.kvm_fpu.pack(**values)), subject="KVM_SET_FPU")

    def msrs(self, indexes: Sequence[int]) -> dict[int, int]:
        """Model-specific registers by index; those after the first unknown one are missing."""
        block = bytearray(uapi.kvm_msrs.pack(nmsrs=len(indexes)))
        for index in indexes:
            block += uapi.kvm_msr_entry.pack(index=index)
        count = ioctl(self.fd, uapi.KVM_GET_MSRS, block, subject="KVM_GET_MSRS")
        rows = [uapi.kvm_msr_entry.unpack(block, 8 + at * uapi.kvm_msr_entry.size) for at in range(count)]
        return {row["index"]: row["data"] for row in rows}

    def set_msrs(self, values: Mapping[int, int]) -> int:
        """Set registers in order; how many were taken: KVM stops at the first that it does not know."""
        block = bytearray(uapi.kvm_msrs.pack(nmsrs=len(values)))
        for index, data in values.items():
            block += uapi.kvm_msr_entry.pack(index=index, data=data)
        return ioctl(self.fd, uapi.KVM_SET_MSRS, block, subject="KVM_SET_MSRS")

    def set_cpuid(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """What CPUID says on this vCPU: entries as `Kvm.supported_cpuid` gives them. Before the first run."""
        block = bytearray(uapi.kvm_cpuid2.pack(nent=len(entries)))
        for entry in entries:
            block += uapi.kvm_cpuid_entry2.pack(**entry)
        ioctl(self.fd, uapi.KVM_SET_CPUID2, block, subject="KVM_SET_CPUID2")

    def lapic(self) -> bytearray:
        """The local APIC's register page (1 KiB of it)."""
        block = bytearray(uapi.kvm_lapic_state_size)
        ioctl(self.fd, uapi.KVM_GET_LAPIC, block, subject="KVM_GET_LAPIC")
        return block

    def set_lapic(self, page: bytearray) -> None:
        ioctl(self.fd, uapi.KVM_SET_LAPIC, page, subject="KVM_SET_LAPIC")

    def mp_state(self) -> int:
        block = bytearray(4)
        ioctl(self.fd, uapi.KVM_GET_MP_STATE, block, subject="KVM_GET_MP_STATE")
        return int.from_bytes(block, "little")

    def set_mp_state(self, state: int) -> None:
        """A state of `uapi.MpState`."""
        ioctl(self.fd, uapi.KVM_SET_MP_STATE, bytearray(state.to_bytes(4, "little")), subject="KVM_SET_MP_STATE")

    def tsc_khz(self) -> int:
        """The frequency of the guest's time stamp counter in kHz, 0 when KVM does not know it."""
        try:
            return ioctl(self.fd, uapi.KVM_GET_TSC_KHZ, 0, subject="KVM_GET_TSC_KHZ")
        except SyscallError:
            return 0

    def kvmclock_ctrl(self) -> None:
        """Tell the guest that it was paused, so that its watchdogs forgive the gap; nothing without a KVM clock."""
        try:
            ioctl(self.fd, uapi.KVM_KVMCLOCK_CTRL, 0, subject="KVM_KVMCLOCK_CTRL")
        except SyscallError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTTY):
                raise

    def close(self) -> None:
        super().close()
        self.run_page.close()
