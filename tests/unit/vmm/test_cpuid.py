"""CPUID leaves: this machine's topology instead of the host's, everything else as KVM gave it."""

from __future__ import annotations

from typing import Any

import pytest

from bireme.linux.kvm import Kvm
from bireme.vmm.cpuid import id_bits, plan_cpuid


def leaf(function: int, index: int = 0, **registers: int) -> dict[str, Any]:
    return {"function": function, "index": index, "flags": 0, "eax": 0, "ebx": 0, "ecx": 0, "edx": 0} | registers


SUPPORTED = [
    leaf(0, eax=0x1F, ebx=0x756E6547),
    leaf(1, eax=0x906EA, ebx=0x12108800, ecx=1, edx=0x1F8BFBFF),
    leaf(4, 0, eax=0x1C004121),
    leaf(4, 2, eax=0x1C03C163),
    leaf(4, 3, eax=0),
    leaf(7, 0, eax=2, ebx=0xFFFF),
    leaf(0xB, 0, eax=1, ebx=2, ecx=0x100, edx=0x12),
    leaf(0x1F, 0, eax=1, ebx=2, ecx=0x100, edx=0x12),
    leaf(0x40000000, eax=0x40000001, ebx=0x4B4D564B),
    leaf(0x40000001, eax=0x01007EFB),
    leaf(0x80000008, eax=0x3030, ecx=0xF00F),
    leaf(0x8000001D, 3, eax=0x0001C163),
    leaf(0x8000001E, eax=0x12, ebx=0x0109, ecx=0x0101),
    leaf(0x80000026, 0, eax=1),
]


def planned(index: int, vcpus: int, *, tsc_deadline: bool = True) -> dict[tuple[int, int], dict[str, Any]]:
    leaves = plan_cpuid(SUPPORTED, index, vcpus, tsc_deadline=tsc_deadline)
    return {(row["function"], row["index"]): row for row in leaves}


@pytest.mark.parametrize(("vcpus", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (32, 5)])
def test_bits_of_an_id(vcpus: int, bits: int) -> None:
    assert id_bits(vcpus) == bits


def test_what_is_not_topology_stays() -> None:
    found = planned(1, 2)
    for key in ((0, 0), (7, 0), (0x40000000, 0), (0x40000001, 0)):
        original = next(row for row in SUPPORTED if (row["function"], row["index"]) == key)
        assert found[key] == original
    assert SUPPORTED[1]["ebx"] == 0x12108800


@pytest.mark.parametrize(("vcpus", "htt"), [(1, 0), (2, 1), (4, 1)])
def test_features_name_the_vcpu(vcpus: int, htt: int) -> None:
    for index in range(vcpus):
        row = planned(index, vcpus)[1, 0]
        assert row["ebx"] >> 24 == index
        assert row["ebx"] >> 16 & 0xFF == 1 << id_bits(vcpus)
        assert row["ebx"] & 0xFFFF == 0x8800
        assert row["edx"] >> 28 & 1 == htt
        assert row["ecx"] >> 31 == 1


@pytest.mark.parametrize("wanted", [True, False])
def test_the_deadline_timer_is_shown_where_it_is(wanted: bool) -> None:
    assert bool(planned(0, 1, tsc_deadline=wanted)[1, 0]["ecx"] & 1 << 24) is wanted


@pytest.mark.parametrize("function", [0xB, 0x1F])
def test_extended_topology_is_one_package_of_cores(function: int) -> None:
    rows = [planned(3, 4)[function, level] for level in range(3)]
    assert [(row["eax"], row["ebx"], row["ecx"] >> 8, row["edx"]) for row in rows] == [
        (0, 1, 1, 3),
        (2, 4, 2, 3),
        (0, 0, 0, 3),
    ]


def test_no_leaf_beyond_the_highest_is_invented() -> None:
    supported = [leaf(0, eax=7), leaf(1)]
    found = {row["function"] for row in plan_cpuid(supported, 0, 2, tsc_deadline=True)}
    assert found == {0, 1}


def test_caches_are_a_cores_own_but_the_last() -> None:
    found = planned(0, 4)
    assert [found[4, index]["eax"] >> 14 & 0xFFF for index in (0, 2, 3)] == [0, 3, 0]
    assert [found[4, index]["eax"] >> 26 for index in (0, 2, 3)] == [3, 3, 0]
    assert found[0x8000001D, 3]["eax"] >> 14 & 0xFFF == 3


def test_amd_leaves() -> None:
    found = planned(2, 4)
    assert found[0x80000008, 0]["ecx"] == 0x2003
    assert found[0x80000008, 0]["eax"] == 0x3030
    assert [found[0x8000001E, 0][name] for name in ("eax", "ebx", "ecx")] == [2, 2, 0]
    assert (0x80000026, 0) not in found


@pytest.mark.needs_kvm
def test_this_hosts_leaves_are_planned() -> None:
    with Kvm() as kvm:
        supported = kvm.supported_cpuid()
    assert any(row["function"] == 0x40000001 for row in supported)
    for index in range(4):
        assert len(plan_cpuid(supported, index, 4, tsc_deadline=True)) < 256
