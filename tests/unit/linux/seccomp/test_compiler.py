"""Profiles become programs that answer every call as the profile says."""

from __future__ import annotations

import errno
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bireme.errors import Invalid, Unsupported
from bireme.linux.seccomp import compile_profile, profile_flags, table
from tests.support.bpf import SeccompFilter

X86_64, I386, AARCH64 = (table.AUDIT_ARCH[name] for name in ("x86_64", "i386", "aarch64"))
ALLOW, KILL_PROCESS = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS


def profile(*rules: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "syscalls": list(rules), **more}


def allow(*names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


def filter_of(given_profile: dict[str, Any], arch: str = "x86_64") -> SeccompFilter:
    return SeccompFilter(compile_profile(given_profile, arch))


def test_every_number_of_a_sparse_list() -> None:
    names = ["read", "write", "getpid", "io_uring_setup", "openat"]
    numbers = {table.syscalls("x86_64")[name] for name in names}
    program = filter_of(profile(allow(*names)))
    for number in range(500):
        expected = ALLOW if number in numbers else EPERM if number <= max(numbers) else ENOSYS
        assert program.run(number, X86_64) == expected, number


def test_a_deny_list() -> None:
    rule = {"names": ["reboot", "read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}
    program = filter_of(profile(rule, default="SCMP_ACT_ALLOW"))
    numbers = table.syscalls("x86_64")
    assert program.run(numbers["reboot"], X86_64) == 0x50005
    assert program.run(numbers["read"], X86_64) == 0x50005
    assert program.run(numbers["write"], X86_64) == ALLOW
    assert program.run(2000, X86_64) == ALLOW


def test_a_profile_without_rules() -> None:
    assert filter_of(profile()).run(1, X86_64) == EPERM
    assert filter_of(profile(default="SCMP_ACT_LOG")).run(1, X86_64) == 0x7FFC0000


def test_architectures_are_apart() -> None:
    program = filter_of(profile(allow("openat"), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]))
    assert program.run(257, X86_64) == ALLOW
    assert program.run(295, X86_64) == EPERM if 295 < 257 else ENOSYS
    assert program.run(295, I386) == ALLOW
    assert program.run(257, I386) == EPERM
    assert program.run(56, AARCH64) == KILL_PROCESS


def test_only_the_native_architecture_unless_listed() -> None:
    program = filter_of(profile(allow("read")))
    assert program.run(3, I386) == KILL_PROCESS
    assert filter_of(profile(allow("openat")), "aarch64").run(56, AARCH64) == ALLOW


def test_x32_calls_do_not_exist() -> None:
    for given_profile in (
        profile(allow("read"), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]),
        profile(allow("read"), default="SCMP_ACT_ALLOW"),
    ):
        program = filter_of(given_profile)
        assert program.run(0x40000000, X86_64) == ENOSYS
        assert program.run(0x40000000 + 513, X86_64) == ENOSYS
    assert filter_of(profile(allow("read"))).run(-1, X86_64) == EPERM


@pytest.mark.parametrize(
    ("action", "value"),
    [
        ("SCMP_ACT_KILL", 0),
        ("SCMP_ACT_KILL_THREAD", 0),
        ("SCMP_ACT_KILL_PROCESS", 0x80000000),
        ("SCMP_ACT_TRAP", 0x30000),
        ("SCMP_ACT_ERRNO", EPERM),
        ("SCMP_ACT_TRACE", 0x7FF00001),
        ("SCMP_ACT_LOG", 0x7FFC0000),
    ],
)
def test_actions(action: str, value: int) -> None:
    rule = {"names": ["getpid"], "action": action}
    assert filter_of(profile(rule, default="SCMP_ACT_ALLOW")).run(39, X86_64) == value


def test_errno_values() -> None:
    for action, base in (("SCMP_ACT_ERRNO", 0x50000), ("SCMP_ACT_TRACE", 0x7FF00000)):
        rule = {"names": ["getpid"], "action": action, "errnoRet": 133}
        assert filter_of(profile(rule, default="SCMP_ACT_ALLOW")).run(39, X86_64) == base | 133
    assert filter_of(profile(default="SCMP_ACT_ERRNO", defaultErrnoRet=38)).run(39, X86_64) == ENOSYS


VALUES = [0, 1, 5, 0xFFFFFFFF, 1 << 32, (1 << 32) + 5, (5 << 32) + 1, (1 << 64) - 1]
OPERATORS = {
    "SCMP_CMP_NE": lambda a, v, w: a != v,
    "SCMP_CMP_LT": lambda a, v, w: a < v,
    "SCMP_CMP_LE": lambda a, v, w: a <= v,
    "SCMP_CMP_EQ": lambda a, v, w: a == v,
    "SCMP_CMP_GE": lambda a, v, w: a >= v,
    "SCMP_CMP_GT": lambda a, v, w: a > v,
    "SCMP_CMP_MASKED_EQ": lambda a, v, w: a & v == w & v,
}


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_operators_compare_64_bits(op: str) -> None:
    for value, argument in itertools.product(VALUES, VALUES):
        second = VALUES[(VALUES.index(value) + 3) % len(VALUES)]
        test = {"index": 2, "op": op, "value": value, "valueTwo": second}
        program = filter_of(profile(allow("read", args=[test])))
        expected = ALLOW if OPERATORS[op](argument, value, second) else EPERM
        assert program.run(0, X86_64, [7, 7, argument]) == expected, (value, argument)


def test_conditions_on_different_arguments_all_hold() -> None:
    args = [{"index": 0, "op": "SCMP_CMP_EQ", "value": 1}, {"index": 1, "op": "SCMP_CMP_GT", "value": 9}]
    program = filter_of(profile(allow("ioctl", args=args)))
    for first, second in itertools.product((0, 1, 2), (9, 10)):
        expected = ALLOW if first == 1 and second > 9 else EPERM
        assert program.run(16, X86_64, [first, second]) == expected


def test_conditions_on_one_argument_are_alternatives() -> None:
    args = [{"index": 0, "op": "SCMP_CMP_EQ", "value": n} for n in (3, 5)]
    program = filter_of(profile(allow("personality", args=args)))
    assert [program.run(135, X86_64, [n]) for n in range(6)] == [EPERM] * 3 + [ALLOW, EPERM, ALLOW]


def test_rules_of_one_call_in_order_then_the_one_without_conditions() -> None:
    args = [{"index": 0, "op": "SCMP_CMP_EQ", "value": 3}]
    program = filter_of(
        profile(
            allow("personality"),
            {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "args": args},
            {"names": ["personality"], "action": "SCMP_ACT_KILL", "args": args},
        )
    )
    assert program.run(135, X86_64, [3]) == 0x50007
    assert program.run(135, X86_64, [4]) == ALLOW


def test_unknown_names_are_skipped() -> None:
    program = filter_of(profile(allow("read", "a_call_of_the_future")))
    assert program.run(0, X86_64) == ALLOW


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        ({"defaultAction": "SCMP_ACT_WINK"}, Invalid),
        ({}, Invalid),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, Unsupported),
        ({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}, Unsupported),
        ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}, Invalid),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1 << 20}, Invalid),
        (profile(default="SCMP_ACT_ALLOW", architectures=["PDP11"]), Invalid),
        (profile(default="SCMP_ACT_ALLOW", architectures="SCMP_ARCH_X86"), Invalid),
        (profile({"names": [], "action": "SCMP_ACT_ALLOW"}), Invalid),
        (profile({"action": "SCMP_ACT_ALLOW"}), Invalid),
        (profile({"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 3}), Invalid),
        (profile({"names": ["read"], "action": "SCMP_ACT_NOTIFY"}), Unsupported),
        (profile(allow("read", args=[{"index": 6, "op": "SCMP_CMP_EQ", "value": 1}])), Invalid),
        (profile(allow("read", args=[{"index": 0, "op": "==", "value": 1}])), Invalid),
        (profile(allow("read", args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": -1}])), Invalid),
        (profile(allow("read", args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": 1 << 64}])), Invalid),
        (profile(allow("read", args="x")), Invalid),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": ["read"]}, Invalid),
    ],
)
def test_mistakes_have_a_place(broken: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        compile_profile(broken, "x86_64")
    assert getattr(caught.value, "place", "")


def test_a_profile_that_is_too_long() -> None:
    names = sorted(table.syscalls("x86_64"))
    tests = [{"index": 0, "op": "SCMP_CMP_EQ", "value": n} for n in range(6)]
    rules = [allow(name, args=[{**t, "value": t["value"] + i} for t in tests]) for i, name in enumerate(names)]
    with pytest.raises(Invalid, match="instructions"):
        compile_profile(profile(*rules), "x86_64")


def test_flags() -> None:
    assert profile_flags({"flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}) == 6
    with pytest.raises(Unsupported):
        profile_flags({"flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]})


NAMES = sorted(table.syscalls("x86_64"))
CONDITIONS = st.fixed_dictionaries(
    {
        "index": st.integers(0, 5),
        "op": st.sampled_from(sorted(OPERATORS)),
        "value": st.sampled_from(VALUES),
        "valueTwo": st.sampled_from(VALUES),
    }
)
RULES = st.fixed_dictionaries(
    {
        "names": st.lists(st.sampled_from(NAMES), min_size=1, max_size=40),
        "action": st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_KILL", "SCMP_ACT_ERRNO"]),
        "args": st.lists(CONDITIONS, max_size=3, unique_by=lambda c: c["index"]),
    }
)


def expected_action(rules: list[dict[str, Any]], number: int, arguments: list[int], beyond: int) -> int:
    """The profile's meaning, straight from its text."""
    table_ = table.syscalls("x86_64")
    mine = [rule for rule in rules if number in {table_[name] for name in rule["names"]}]
    for rule in [r for r in mine if r["args"]] + [r for r in mine if not r["args"]]:
        if all(OPERATORS[t["op"]](arguments[t["index"]], t["value"], t["valueTwo"]) for t in rule["args"]):
            return EPERM if rule["action"] == "SCMP_ACT_ERRNO" else table.ACTIONS[rule["action"]]
    return EPERM if number <= beyond else ENOSYS


@settings(max_examples=60, deadline=None)
@given(
    rules=st.lists(RULES, max_size=12),
    arguments=st.lists(st.sampled_from(VALUES), min_size=6, max_size=6),
)
def test_any_profile_answers_as_it_reads(rules: list[dict[str, Any]], arguments: list[int]) -> None:
    program = filter_of(profile(*rules))
    named = {table.syscalls("x86_64")[name] for rule in rules for name in rule["names"]}
    beyond = max(named, default=10**9)
    for number in sorted(named | {n + 1 for n in named} | {0, 700}):
        assert program.run(number, X86_64, arguments) == expected_action(rules, number, arguments, beyond)
