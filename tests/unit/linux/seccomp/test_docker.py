"""Docker's format and the default profile, with libseccomp as the judge where it is installed."""

from __future__ import annotations

import ctypes
import errno
import tempfile
from typing import Any

import pytest

from bireme.errors import Invalid
from bireme.linux.seccomp import (
    DEFAULT_CAPS,
    compile_profile,
    default_profile,
    default_program,
    docker_profile_to_oci,
    parse_docker_profile,
    table,
)
from tests.support.bpf import SeccompFilter

ALLOW = 0x7FFF0000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
X86_64, I386 = table.AUDIT_ARCH["x86_64"], table.AUDIT_ARCH["i386"]


def default_for(*caps: str, arch: str = "x86_64") -> dict[str, Any]:
    return docker_profile_to_oci(default_profile(), caps, arch, "6.1.0")


def answer(name: str, *arguments: int, caps: tuple[str, ...] = tuple(DEFAULT_CAPS)) -> int:
    program = SeccompFilter(compile_profile(default_for(*caps), "x86_64"))
    return program.run(table.syscalls("x86_64")[name], X86_64, arguments)


def test_what_a_container_may_call() -> None:
    assert answer("read") == answer("io_pgetevents") == answer("ptrace") == answer("chroot") == ALLOW
    for name in ("mount", "reboot", "keyctl", "add_key", "io_uring_setup", "bpf", "unshare", "setns", "kexec_load"):
        assert answer(name) == EPERM, name


def test_capabilities_open_calls() -> None:
    for cap, name in (
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_TIME", "settimeofday"),
        ("CAP_BPF", "bpf"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_SYS_NICE", "mbind"),
    ):
        assert answer(name) == EPERM
        assert answer(name, caps=(cap,)) == ALLOW
    assert answer("chroot", caps=()) == EPERM


def test_no_new_namespaces_without_the_right() -> None:
    newuser, thread = 0x10000000, 0x3D0F00
    assert answer("clone", thread) == ALLOW
    assert answer("clone", newuser | 17) == EPERM
    assert answer("clone3", 0) == ENOSYS
    assert answer("clone", newuser | 17, caps=("CAP_SYS_ADMIN",)) == ALLOW
    assert answer("clone3", 0, caps=("CAP_SYS_ADMIN",)) == ALLOW


def test_address_families_and_personalities() -> None:
    assert [answer("socket", family) == ALLOW for family in (1, 2, 10, 16, 37, 38, 39, 40, 41)] == [
        *[True] * 5,
        False,
        True,
        False,
        True,
    ]
    assert answer("personality", 0xFFFFFFFF) == answer("personality", 0x20008) == ALLOW
    assert answer("personality", 0x40000) == EPERM


def test_calls_of_the_future_do_not_exist() -> None:
    program = SeccompFilter(compile_profile(default_for(), "x86_64"))
    assert program.run(2000, X86_64) == program.run(2000, I386) == ENOSYS


def test_the_default_program_is_made_once() -> None:
    assert default_program() is default_program(set(DEFAULT_CAPS))
    assert default_program({"CAP_SYS_ADMIN"}) != default_program()


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_it_compiles_for(arch: str) -> None:
    program = SeccompFilter(compile_profile(default_for(*DEFAULT_CAPS, arch=arch), arch))
    assert len(program.code) < 300
    number = table.syscalls(arch)["openat"]
    assert program.run(number, table.AUDIT_ARCH[arch]) == ALLOW


def libseccomp_program(profile: dict[str, Any]) -> SeccompFilter:
    """What libseccomp makes of the same OCI profile."""
    seccomp = pytest.importorskip("pyseccomp")
    library = seccomp._libseccomp
    library.seccomp_syscall_resolve_name_arch.restype = ctypes.c_int
    made = seccomp.SyscallFilter(seccomp.ERRNO(1))
    for name in profile["architectures"]:
        if table.ARCHITECTURES[name] != "x86_64":
            made.add_arch(getattr(seccomp.Arch, name.removeprefix("SCMP_ARCH_")))
    for rule in profile["syscalls"]:
        action = seccomp.ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else seccomp.ERRNO(rule["errnoRet"])
        tests = [
            seccomp.Arg(a["index"], operator(seccomp, a["op"]), a["value"], a.get("valueTwo", 0))
            for a in rule.get("args", ())
        ]
        for name in rule["names"]:
            if library.seccomp_syscall_resolve_name(name.encode()) != -1:
                made.add_rule(action, name, *tests)
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return SeccompFilter(file.read())


def operator(seccomp: Any, name: str) -> Any:
    return {
        "SCMP_CMP_LT": seccomp.LT,
        "SCMP_CMP_EQ": seccomp.EQ,
        "SCMP_CMP_GT": seccomp.GT,
        "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ,
    }[name]


@pytest.mark.parametrize("caps", [tuple(sorted(DEFAULT_CAPS)), (), ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE")])
def test_libseccomp_answers_the_same(caps: tuple[str, ...]) -> None:
    profile = default_for(*caps)
    mine = SeccompFilter(compile_profile(profile, "x86_64"))
    theirs = libseccomp_program(profile)
    samples = [[0] * 6, [38, 1], [39, 1], [40], [0x10000000, 0x10000000], [0xFFFFFFFF], [1 << 40, 7], [8]]
    newer_than_it = {table.syscalls("x86_64")[name] for name in ("uretprobe", "uprobe")}
    for number in set(range(440)) - newer_than_it:
        for sample in samples:
            for arch, width in ((X86_64, 64), (I386, 32)):
                arguments = [value & (1 << width) - 1 for value in sample]
                assert mine.run(number, arch, arguments) == theirs.run(number, arch, arguments), (number, arch)


def test_the_older_spelling() -> None:
    given = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"name": "read", "action": "SCMP_ACT_ALLOW", "args": []}],
    }
    oci = docker_profile_to_oci(given, set())
    assert oci["syscalls"] == [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]
    assert SeccompFilter(compile_profile(oci, "x86_64")).run(0, X86_64) == ALLOW


def test_conditions_on_the_container() -> None:
    def rules(arch: str = "x86_64", kernel: str = "6.1.0-44-amd64", caps: tuple[str, ...] = (), **rule: Any) -> int:
        given = {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", **rule}],
        }
        return len(docker_profile_to_oci(given, caps, arch, kernel)["syscalls"])

    assert rules() == 1
    assert rules(includes={"caps": ["CAP_A", "CAP_B"]}, caps=("CAP_A",)) == 0
    assert rules(includes={"caps": ["CAP_A", "CAP_B"]}, caps=("CAP_A", "CAP_B")) == 1
    assert rules(excludes={"caps": ["CAP_A", "CAP_B"]}, caps=("CAP_A",)) == 0
    assert rules(includes={"arches": ["arm64", "s390x"]}) == 0
    assert rules(includes={"arches": ["amd64"]}) == rules(includes={"arches": ["arm64"]}, arch="aarch64") == 1
    assert rules(excludes={"arches": ["amd64"]}) == 0
    assert rules(includes={"minKernel": "6.2"}) == rules(excludes={"minKernel": "5.19"}) == 0
    assert rules(includes={"minKernel": "4.8"}) == rules(excludes={"minKernel": "7.0"}) == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"archMap": [], "architectures": ["SCMP_ARCH_X86"]},
        {"archMap": {}},
        {"syscalls": {}},
        {"syscalls": ["read"]},
        {"syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}]},
        {"syscalls": [{"names": ["b"], "action": "SCMP_ACT_ALLOW", "typo": 1}]},
        {"syscalls": [{"names": ["b"], "includes": {"caps": "CAP_A"}}]},
        {"syscalls": [{"names": ["b"], "includes": {"minKernel": "new"}}]},
    ],
)
def test_profiles_that_are_none(broken: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        docker_profile_to_oci({"defaultAction": "SCMP_ACT_ALLOW", **broken}, set())


def test_text() -> None:
    assert parse_docker_profile('{"defaultAction": "SCMP_ACT_ALLOW"}') == {"defaultAction": "SCMP_ACT_ALLOW"}
    for text in ("", "[", "[]", "7"):
        with pytest.raises(Invalid, match="Decoding seccomp profile failed"):
            parse_docker_profile(text)
