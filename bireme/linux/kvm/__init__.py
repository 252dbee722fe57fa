"""KVM: virtual machines as descriptors. Linux Documentation/virt/kvm/api.rst; x86_64 only.

    with Kvm() as kvm, kvm.create_vm() as vm:
        vm.set_memory(0, 0x1000, memory)
        with vm.create_vcpu(0) as vcpu:
            exit = vcpu.run()

A VM belongs to the process that created it: fork first. A vCPU belongs to the thread that runs it. Guest memory is any
writable mapping that stays alive as long as the VM.
"""

from bireme.linux.kvm.device import Kvm, Vm
from bireme.linux.kvm.uapi import ExitReason, MpState
from bireme.linux.kvm.vcpu import Exit, Vcpu

__all__ = ["Exit", "ExitReason", "Kvm", "MpState", "Vcpu", "Vm"]
