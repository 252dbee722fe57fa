"""The allow lists of the machine's processes as data: complete, without repetitions, without what must not be there."""

from __future__ import annotations

import errno
import signal

import pytest

from bireme.linux.kvm import uapi
from bireme.linux.seccomp import table
from bireme.vmm.allowlist import ALLOWED, PROT_EXEC, program
from bireme.vmm.jail import LIMITS
from bireme.vmm.vcpu import KICK
from tests.support.bpf import SeccompFilter

X86_64 = table.AUDIT_ARCH["x86_64"]
KILL = table.ACTIONS["SCMP_ACT_KILL_PROCESS"]
ALLOW = table.ACTIONS["SCMP_ACT_ALLOW"]
KINDS = sorted(ALLOWED)
NUMBERS = table.syscalls("x86_64")
NEVER = (
    "execve execveat open openat openat2 creat socket socketpair connect bind listen ptrace fork vfork setns unshare "
    "mount umount2 pivot_root chroot init_module bpf io_uring_setup keyctl process_vm_readv process_vm_writev "
    "perf_event_open userfaultfd memfd_create setuid setresuid capset seccomp personality unlink rename"
).split()


def answer(kind: str, call: str, *arguments: int) -> int:
    return SeccompFilter(program(kind)).run(NUMBERS[call], X86_64, list(arguments))


def test_every_kind_has_limits() -> None:
    assert sorted(LIMITS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_is_a_call_with_a_reason_and_stands_once(kind: str) -> None:
    entries = ALLOWED[kind]
    assert all(entry.call in NUMBERS and len(entry.why) > 5 for entry in entries)
    wanted = [(entry.call, entry.when) for entry in entries]
    assert len(set(wanted)) == len(wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unconditional_entry_stands_alone(kind: str) -> None:
    free = {entry.call for entry in ALLOWED[kind] if not entry.when}
    assert not free & {entry.call for entry in ALLOWED[kind] if entry.when}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", NEVER)
def test_what_no_kind_may(kind: str, call: str) -> None:
    if (kind, call) == ("link", "memfd_create"):
        assert answer(kind, call, 0, 0) == KILL, "only one that can be sealed"
        return
    assert answer(kind, call) == KILL


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("abi", ["i386", "aarch64"])
def test_calls_of_another_architecture_kill(kind: str, abi: str) -> None:
    assert SeccompFilter(program(kind)).run(NUMBERS["read"], table.AUDIT_ARCH[abi]) == KILL


@pytest.mark.parametrize("kind", KINDS)
def test_memory_never_becomes_executable(kind: str) -> None:
    for prot in range(8):
        expected = KILL if prot & PROT_EXEC else ALLOW
        assert answer(kind, "mmap", 0, 4096, prot) == expected
    assert answer(kind, "mprotect", 0, 4096, PROT_EXEC) == KILL


def test_main_runs_vcpus_and_makes_none() -> None:
    assert answer("vmm", "ioctl", 5, uapi.KVM_RUN) == ALLOW
    for number in (uapi.KVM_CREATE_VM, uapi.KVM_CREATE_VCPU, uapi.KVM_SET_USER_MEMORY_REGION, uapi.KVM_SET_SREGS):
        assert answer("vmm", "ioctl", 5, number) == KILL


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "vmm"])
def test_device_processes_have_no_kvm_and_no_threads(kind: str) -> None:
    assert answer(kind, "ioctl", 5, uapi.KVM_RUN) == KILL
    assert answer(kind, "clone", THREAD) == KILL


THREAD = 0x3D0F00


def test_clone_makes_threads_only() -> None:
    assert answer("vmm", "clone", THREAD) == ALLOW
    assert answer("vmm", "clone", THREAD | 0x400000) == ALLOW
    for bits in (0, 2, 17, 0x1200011, 0x4111, THREAD | 0x10000000, THREAD & ~0x10000):
        assert answer("vmm", "clone", bits) == KILL
    assert answer("vmm", "clone3") == table.ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS


def test_signals_are_kicks_and_the_end_of_device_processes() -> None:
    assert answer("vmm", "tgkill", 1, 2, KICK) == ALLOW
    assert answer("vmm", "tgkill", 1, 2, signal.SIGKILL) == KILL
    assert answer("vmm", "pidfd_send_signal", 5, signal.SIGKILL) == ALLOW
    assert answer("vmm", "pidfd_send_signal", 5, signal.SIGTERM) == KILL
    assert answer("vmm", "kill", 1, signal.SIGTERM) == KILL
