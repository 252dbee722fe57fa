"""Names of a machine's TAPs: no two of an engine are alike, however many interfaces its machines have."""

from __future__ import annotations

import itertools

import pytest

from bireme.errors import Invalid
from bireme.supervisor.machines import tap_name
from bireme.vmm.plan import MAX_INTERFACES

SLOTS = (*range(1, 60), 35, 36, 37, 1295, 1296, 36**7 - 1)


def test_no_two_interfaces_of_any_machines_have_one_name() -> None:
    pairs = itertools.product(sorted(set(SLOTS)), range(MAX_INTERFACES))
    names = [tap_name("abc123", slot, number) for slot, number in pairs]
    assert len(set(names)) == len(names)
    assert max(len(name) for name in names) == 15
    assert all(name.startswith("tabc123") for name in names)


def test_a_name_that_the_kernel_or_another_machine_would_not_leave_us() -> None:
    with pytest.raises(Invalid, match="at most 36"):
        tap_name("abc123", 1, MAX_INTERFACES)
    with pytest.raises(Invalid, match="longer than the kernel's 15 bytes"):
        tap_name("abc123", 36**7, 0)
