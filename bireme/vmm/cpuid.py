"""What CPUID tells each vCPU: KVM's supported leaves with the topology of this machine written over the host's.

KVM hands out what the host's processor and itself can do, KVM's own leaves at 0x4000_0000 (clock, interrupts)
included. The topology in it is the host's, though, and a guest that believes it waits for processors that are not
there. Here a machine is one package of `vcpus` cores with one thread each; the APIC id is the vCPU's number.
(Intel SDM vol. 2A CPUID, AMD APM vol. 3 appendix E.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bireme.linux.kvm import uapi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Leaf = dict[str, Any]

_HTT = 1 << 28
_TSC_DEADLINE = 1 << 24
_HYPERVISOR = 1 << 31
_TOPOLOGY_LEAVES = (0xB, 0x1F)
_LEVEL_THREAD, _LEVEL_CORE = 1, 2
_DROPPED = (0x80000026, *_TOPOLOGY_LEAVES)
"""Extended topologies: two are made anew, AMD's newest is left out (the older leaves say the same)."""


def id_bits(vcpus: int) -> int:
    """Bits of an APIC id that number the cores of a package."""
    return (vcpus - 1).bit_length()


def _features(leaf: Leaf, index: int, vcpus: int) -> None:
    leaf["ebx"] = leaf["ebx"] & 0xFFFF | 1 << id_bits(vcpus) << 16 & 0xFF0000 | index << 24
    leaf["ecx"] |= _HYPERVISOR
    leaf["edx"] = leaf["edx"] & ~_HTT | (_HTT if vcpus > 1 else 0)


def _intel_cache(leaf: Leaf, index: int, vcpus: int) -> None:
    """Cores per package; the last level is shared by all, the others are a core's own."""
    if not leaf["eax"] & 0x1F:
        return
    sharing = (1 << id_bits(vcpus)) - 1 if leaf["eax"] >> 5 & 7 >= 3 else 0
    leaf["eax"] = leaf["eax"] & 0x3FFF | sharing << 14 | ((1 << id_bits(vcpus)) - 1) << 26


def _amd_cache(leaf: Leaf, index: int, vcpus: int) -> None:
    if leaf["eax"] & 0x1F:
        sharing = vcpus - 1 if leaf["eax"] >> 5 & 7 >= 3 else 0
        leaf["eax"] = leaf["eax"] & 0x3FFF | sharing << 14


def _amd_cores(leaf: Leaf, index: int, vcpus: int) -> None:
    leaf["ecx"] = leaf["ecx"] & ~0xF0FF | id_bits(vcpus) << 12 | vcpus - 1


def _amd_extended_id(leaf: Leaf, index: int, vcpus: int) -> None:
    leaf.update(eax=index, ebx=index & 0xFF, ecx=0)


_CORRECTIONS: dict[int, Callable[[Leaf, int, int], None]] = {
    0x1: _features,
    0x4: _intel_cache,
    0x8000_0008: _amd_cores,
    0x8000_001D: _amd_cache,
    0x8000_001E: _amd_extended_id,
}


def _topology(function: int, index: int, vcpus: int) -> Iterable[Leaf]:
    """Thread and core level: the shift from an APIC id to the next level's, how many there are, the own id."""
    rows = ((0, 1, _LEVEL_THREAD), (id_bits(vcpus), vcpus, _LEVEL_CORE), (0, 0, 0))
    for level, (shift, count, kind) in enumerate(rows):
        yield {
            "function": function,
            "index": level,
            "flags": uapi.KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            "eax": shift,
            "ebx": count,
            "ecx": level | kind << 8,
            "edx": index,
        }


def plan_cpuid(supported: Iterable[Leaf], index: int, vcpus: int, *, tsc_deadline: bool) -> list[Leaf]:
    """The leaves of vCPU `index` of `vcpus`. `tsc_deadline`: the in-kernel APIC has that timer (KVM does not say so
    in its list, since it depends on the APIC)."""
    leaves = [dict(leaf) for leaf in supported if leaf["function"] not in _DROPPED]
    highest = next((leaf["eax"] for leaf in leaves if leaf["function"] == 0), 0)
    for leaf in leaves:
        correct = _CORRECTIONS.get(leaf["function"])
        if correct is not None:
            correct(leaf, index, vcpus)
        if leaf["function"] == 0x1 and tsc_deadline:
            leaf["ecx"] |= _TSC_DEADLINE
    for function in _TOPOLOGY_LEAVES:
        if function <= highest:
            leaves += _topology(function, index, vcpus)
    return leaves
