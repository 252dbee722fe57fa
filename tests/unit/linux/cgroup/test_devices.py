"""Device rules reduce to a policy; the v1 lines and the v2 program enforce the same one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bireme.errors import Unsupported
from bireme.linux.cgroup import ALLOW_ALL, DEFAULT_RULES, DeviceRule
from bireme.linux.cgroup.bpf_device import assemble
from bireme.linux.cgroup.devices import DevicePolicy, plan_device_writes, reduce_rules
from tests.support.bpf import DeviceProgram

KINDS = {"b": 1, "c": 2}
ACCESS = {"m": 1, "r": 2, "w": 4}


def permits(policy: DevicePolicy, kind: str, major: int, minor: int, access: str) -> bool:
    """What the kernel's v1 controller answers (security/device_cgroup.c): an exception to a default of "deny" covers
    all that is asked for, one to "allow" is hit by any part of it."""
    for (k, ma, mi), allowed in policy.exceptions.items():
        if k != kind or ma not in (-1, major) or mi not in (-1, minor):
            continue
        if not policy.allow and set(access) <= set(allowed):
            return True
        if policy.allow and set(access) & set(allowed):
            return False
    return policy.allow


def test_the_default_rules() -> None:
    policy = reduce_rules(DEFAULT_RULES)
    assert not policy.allow
    assert permits(policy, "c", 1, 3, "rw")
    assert permits(policy, "c", 136, 77, "rw")
    assert permits(policy, "b", 8, 0, "m")
    assert not permits(policy, "b", 8, 0, "r")
    assert not permits(policy, "c", 1, 1, "r")


def test_later_rules_win() -> None:
    rules = [DeviceRule(False), DeviceRule(True, "c", 1, 3), DeviceRule(False, "c", 1, 3, "w")]
    assert reduce_rules(rules) == DevicePolicy(False, {("c", 1, 3): "rm"})
    assert reduce_rules([*rules, DeviceRule(True)]) == DevicePolicy(True, {})
    assert reduce_rules([DeviceRule(True), DeviceRule(False, "b", 8, -1, "w")]).exceptions == {("b", 8, -1): "w"}
    assert reduce_rules([DeviceRule(False), DeviceRule(True, "c", 1, 3, "r"), DeviceRule(True, "c", 1, 3, "w")]) == (
        False,
        {("c", 1, 3): "rw"},
    )


def test_a_hole_in_an_exception_cannot_be_said() -> None:
    with pytest.raises(Unsupported, match="takes a part out"):
        reduce_rules([DeviceRule(False), DeviceRule(True, "c"), DeviceRule(False, "c", 1, 3)])
    with pytest.raises(Unsupported):
        reduce_rules([DeviceRule(True), DeviceRule(False, "c", 1, -1), DeviceRule(True, "c", 1, 3)])


def test_only_the_difference_is_written() -> None:
    default = reduce_rules(DEFAULT_RULES)
    more = reduce_rules([*DEFAULT_RULES, DeviceRule(True, "c", 10, 229)])
    assert plan_device_writes(default, None)[0] == ("devices.deny", b"a")
    assert len(plan_device_writes(default, None)) == 13
    assert plan_device_writes(more, default) == [("devices.allow", b"c 10:229 rwm")]
    assert plan_device_writes(default, more) == [("devices.deny", b"c 10:229 rwm")]
    assert plan_device_writes(default, default) == []
    assert plan_device_writes(reduce_rules(ALLOW_ALL), default) == [("devices.allow", b"a")]
    less = reduce_rules([DeviceRule(True), DeviceRule(False, "b", 8, -1, "w")])
    assert plan_device_writes(less, default) == [("devices.allow", b"a"), ("devices.deny", b"b 8:* w")]


NUMBERS = st.sampled_from([-1, 0, 1, 3, 8])
RULES = st.builds(
    DeviceRule,
    st.booleans(),
    st.sampled_from(["a", "b", "c"]),
    NUMBERS,
    NUMBERS,
    st.sampled_from(["r", "w", "m", "rw", "rwm"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(RULES, max_size=8))
def test_the_program_answers_as_v1_does(rules: list[DeviceRule]) -> None:
    try:
        policy = reduce_rules(rules)
    except Unsupported:
        return
    program = DeviceProgram(assemble(policy))
    for kind, major, minor, access in itertools.product("bc", (0, 1, 3, 7), (0, 3, 9), ("r", "w", "m", "rw")):
        bits = sum(ACCESS[letter] for letter in access)
        answer = program.run(KINDS[kind], bits, major, minor)
        assert answer == permits(policy, kind, major, minor, access), (policy, kind, major, minor, access)


def test_numbers_no_device_has_are_left_out() -> None:
    assert assemble(DevicePolicy(False, {("c", 1 << 31, 0): "rwm"})) == assemble(DevicePolicy(False, {}))
