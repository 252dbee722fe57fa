"""The virtual machine as KVM has it: memory slots, interrupt controllers, eventfds, processors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bireme.errors import Invalid, Unsupported
from bireme.linux.kvm import uapi
from bireme.vmm import layout
from bireme.vmm.cpuid import plan_cpuid
from bireme.vmm.registers import apply_reset

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bireme.linux.kvm import Kvm, Vcpu, Vm
    from bireme.vmm.memory import GuestMemory
    from bireme.vmm.slot import MmioSlot, Slot

NEEDED = {
    "user memory": uapi.KVM_CAP_USER_MEMORY,
    "interrupt controllers": uapi.KVM_CAP_IRQCHIP,
    "a timer": uapi.KVM_CAP_PIT2,
    "irqfd": uapi.KVM_CAP_IRQFD,
    "ioeventfd": uapi.KVM_CAP_IOEVENTFD,
    "CPUID": uapi.KVM_CAP_EXT_CPUID,
    "immediate exit": uapi.KVM_CAP_IMMEDIATE_EXIT,
}
"""What KVM has to offer; all of it has been there since Linux 4.12."""


def check_kvm(kvm: Kvm, vcpus: int) -> None:
    """Unsupported when KVM lacks something, Invalid for more vCPUs than it can do."""
    missing = [name for name, number in NEEDED.items() if not kvm.check_extension(number)]
    if missing:
        raise Unsupported(f"this KVM lacks {', '.join(missing)}", subject="kvm", hint="Linux 4.12 or newer")
    most = kvm.check_extension(uapi.KVM_CAP_MAX_VCPUS)
    if vcpus > most:
        raise Invalid(f"{vcpus} vCPUs: this KVM can do {most}", subject="vcpus")


def create_vm(kvm: Kvm, memory: GuestMemory, vcpus: int) -> Vm:
    """A VM with its memory, interrupt controllers and timer, no processor yet. Errors of `check_kvm`."""
    check_kvm(kvm, vcpus)
    vm = kvm.create_vm()
    vm.set_tss_address(layout.KVM_TSS)
    vm.set_identity_map_address(layout.KVM_IDENTITY_MAP)
    for number, region in enumerate(memory.regions):
        vm.set_memory(number, region.base, memory.mapping, region.offset, region.size)
    vm.create_irqchip()
    vm.create_pit()
    return vm


def place_slots(kvm: Kvm, vm: Vm, memory: GuestMemory, placed: Iterable[tuple[Slot, MmioSlot]], nobody: int) -> None:
    """What a device's driver does all the time costs no exit: notifications and acknowledgements become eventfds
    (`nobody` is one that nobody reads), and registers are read from a page, where KVM can have read-only memory."""
    read_only = bool(kvm.check_extension(uapi.KVM_CAP_READONLY_MEM))
    for slot, device in placed:
        for queue, eventfd in enumerate(slot.kicks):
            vm.ioeventfd(slot.base + layout.VIRTIO_QUEUE_NOTIFY, 4, eventfd, queue)
        for offset, size, value in device.absorbed:
            vm.ioeventfd(slot.base + offset, size, nobody, value)
        if read_only and device.page is not None:
            vm.set_memory(len(memory.regions) + slot.number, slot.base, device.page, read_only=True)


def create_vcpus(kvm: Kvm, vm: Vm, count: int) -> Iterator[Vcpu]:
    """Processors as firmware would leave them."""
    supported = kvm.supported_cpuid()
    deadline = bool(kvm.check_extension(uapi.KVM_CAP_TSC_DEADLINE_TIMER))
    for index in range(count):
        vcpu = vm.create_vcpu(index)
        vcpu.set_cpuid(plan_cpuid(supported, index, count, tsc_deadline=deadline))
        apply_reset(vcpu)
        yield vcpu
