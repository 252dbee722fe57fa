"""What each kind of process may ask of the kernel once its jail is shut, and why. Everything else kills the process.

    "vmm"      main: vCPU threads, the buses, a loop
    "block"    data paths of the disks
    "net"      data paths of the interfaces
    "link"     the agent's session, standard streams, the control socket
    "entropy"  random numbers and the console; "net" has them where there is an interface

An entry is a call, perhaps with conditions on its arguments, and the reason. tests/integration/test_vmm_calls.py
records what the processes really do: an entry that no run needs is a failure, unless it is marked `rare` (the reason
then says what brings it about). What is missing on purpose: execve, open*, socket, clone but for threads, mmap and
mprotect with PROT_EXEC, ptrace, every ioctl but those named.

Python's own needs are those of `PYTHON`: memory by malloc and by arenas, locks, signals, time. Its libc decides which
calls that means; the list is glibc's and is recorded with Debian 12's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from bireme.linux.kvm import uapi
from bireme.linux.libc import MACHINE
from bireme.linux.seccomp import compile_profile
from bireme.linux.tun import TUNSETOFFLOAD
from bireme.vmm.vcpu import KICK

if TYPE_CHECKING:
    from collections.abc import Iterable

PROT_EXEC = 4
_MADV_DONTNEED = 4
_FIONBIO = 0x5421
_TCGETS = 0x5401
_TCSETS = 0x5402
_TIOCSWINSZ = 0x5414
_AT_EMPTY_PATH = 0x1000
_F_DUPFD_CLOEXEC = 1030
_F_SETPIPE_SZ = 1031
_F_ADD_SEALS = 1033
_F_GET_SEALS = 1034
_MFD_SEALABLE = 3
"""MFD_CLOEXEC | MFD_ALLOW_SEALING"""
_PR_SET_NAME = 15
_SIGKILL = 9
_THREAD = 0x003D0F00
"""CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID: pthread_create's flags."""
_OPTIONAL = 0x00400000
"""CLONE_DETACHED: means nothing any more, and some C libraries still say it."""


class Condition(NamedTuple):
    """An argument (from 0), masked, equals a value. All arguments here are ints: the kernel reads their low half."""

    argument: int
    value: int
    mask: int = 0xFFFFFFFF


class Entry(NamedTuple):
    """One allowed call. `errno` not 0: it fails with that instead, for callers that know what to do then."""

    call: str
    why: str
    when: tuple[Condition, ...] = ()
    rare: bool = False
    errno: int = 0


def _is(argument: int, value: int) -> tuple[Condition, ...]:
    return (Condition(argument, value),)


_NOT_EXECUTABLE = (Condition(2, 0, PROT_EXEC),)

PYTHON = (
    Entry("mmap", "memory for objects and threads; never executable", _NOT_EXECUTABLE),
    Entry("munmap", "memory given back"),
    Entry("mremap", "a large block of malloc that grows"),
    Entry("brk", "malloc"),
    Entry("clock_gettime", "time, where the kernel's clock cannot be read without a call", rare=True),
    Entry("restart_syscall", "a wait that was interrupted by a stop or a freeze of the process", rare=True),
    Entry("exit_group", "the end"),
    Entry("write", "an eventfd: an interrupt, a wake-up; streams"),
    Entry("close", "descriptors that are done with"),
)
"""Every process: what the interpreter and its C library do for themselves, and what all of ours do."""

_LOOP = (
    Entry("epoll_wait", "the loop waits"),
    Entry("recvfrom", "requests of main, or its answers"),
    Entry("sendto", "answers, events"),
)

_VMM = (
    Entry("epoll_ctl", "the loop watches something more or less"),
    Entry("ioctl", "a vCPU runs", _is(1, uapi.KVM_RUN)),
    Entry("ioctl", "a guest that was paused is told so", _is(1, uapi.KVM_KVMCLOCK_CTRL)),
    Entry("ioctl", "where a guest was that KVM gave up on", _is(1, uapi.KVM_GET_REGS), rare=True),
    Entry("ioctl", "a socket with a time limit", _is(1, _FIONBIO)),
    Entry("futex", "locks between threads, the interpreter's among them"),
    Entry("read", "the line to the link, eventfds"),
    Entry("poll", "a device process is asked, with a time limit"),
    Entry("clone", "a vCPU's thread, and no other process", (Condition(0, _THREAD, 0xFFFFFFFF & ~_OPTIONAL),)),
    Entry("clone3", "its flags lie in memory, where no filter sees them; libc then uses clone", errno=38),
    Entry("set_robust_list", "a thread begins"),
    Entry("rseq", "a thread begins"),
    Entry("exit", "a thread ends"),
    Entry("gettid", "a thread's name for itself"),
    Entry("rt_sigprocmask", "a vCPU's thread takes no signal but the kick"),
    Entry("rt_sigreturn", "a vCPU's thread was kicked"),
    Entry("mprotect", "a thread's stack", _NOT_EXECUTABLE),
    Entry("madvise", "a thread's stack is given back", _is(2, _MADV_DONTNEED)),
    Entry("prctl", "a thread's name (Python 3.14 and newer)", _is(0, _PR_SET_NAME), rare=True),
    Entry("tgkill", "a kick: a vCPU leaves the guest", _is(2, int(KICK))),
    Entry("getpid", "a kick names the process"),
    Entry("pidfd_send_signal", "a device process is ended", _is(1, _SIGKILL)),
    Entry("waitid", "a device process has ended"),
    Entry("rt_sigaction", "libc's own signals, before the first thread of a process and its ancestors", rare=True),
)

_BLOCK = (
    Entry("preadv2", "the guest reads its disk"),
    Entry("pwritev2", "the guest writes its disk, perhaps through to it"),
    Entry("pwrite64", "zeros, on a file system that cannot make a hole", rare=True),
    Entry("fdatasync", "the guest flushes its disk"),
    Entry("fallocate", "the guest discards blocks"),
)

_NET = (
    Entry("epoll_ctl", "the loop watches something more or less"),
    Entry("ioctl", "which offloads the guest's driver can take", _is(1, TUNSETOFFLOAD)),
    Entry("readv", "packets for the guest"),
    Entry("writev", "packets of the guest"),
    Entry("getrandom", "random numbers for the guest"),
)

_LINK = (
    Entry("epoll_ctl", "the loop watches something more or less"),
    Entry("getrandom", "the entropy that the agent begins with, tokens of streams"),
    Entry("read", "streams"),
    Entry("accept4", "somebody talks to the machine's control socket"),
    Entry("getsockname", "Python looks at the socket that it accepted"),
    Entry("ioctl", "a socket or stream without blocking", _is(1, _FIONBIO)),
    Entry("recvmsg", "a request with descriptors"),
    Entry("sendmsg", "an answer with a descriptor"),
    Entry("memfd_create", "an answer too large for a packet", _is(1, _MFD_SEALABLE)),
    Entry("fcntl", "that answer is sealed", _is(1, _F_ADD_SEALS)),
    Entry("lseek", "and read from its beginning"),
    Entry("fcntl", "a request too large for a packet is a sealed file", _is(1, _F_GET_SEALS)),
    Entry("newfstatat", "of what size", _is(3, _AT_EMPTY_PATH)),
    Entry("fstat", "of what size (glibc 2.39 and newer)", rare=True),
    Entry("fcntl", "a mapping has a descriptor of its own", _is(1, _F_DUPFD_CLOEXEC)),
    Entry("fcntl", "the last output fits into the host's pipe, read or not", _is(1, _F_SETPIPE_SZ)),
    Entry("ioctl", "how a terminal is set", _is(1, _TCGETS)),
    Entry("ioctl", "a terminal is raw", _is(1, _TCSETS)),
    Entry("ioctl", "the size of a terminal", _is(1, _TIOCSWINSZ)),
)

_ENTROPY = (
    Entry("epoll_ctl", "the loop watches something more or less"),
    Entry("getrandom", "random numbers for the guest"),
    Entry("readv", "the console's input"),
)

ALLOWED: dict[str, tuple[Entry, ...]] = {
    "vmm": (*PYTHON, *_LOOP, *_VMM),
    "block": (*PYTHON, *_LOOP, *_BLOCK),
    "net": (*PYTHON, *_LOOP, *_NET),
    "link": (*PYTHON, *_LOOP, *_LINK),
    "entropy": (*PYTHON, *_LOOP, *_ENTROPY),
}


def profile(entries: Iterable[Entry]) -> dict[str, Any]:
    """The entries as an OCI `linux.seccomp` object; all else kills the process."""
    return {
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "architectures": [],
        "syscalls": [_rule(entry) for entry in entries],
    }


def _rule(entry: Entry) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": [entry.call], "action": "SCMP_ACT_ALLOW"}
    if entry.errno:
        rule |= {"action": "SCMP_ACT_ERRNO", "errnoRet": entry.errno}
    if entry.when:
        rule["args"] = [
            {"index": argument, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
            for argument, value, mask in entry.when
        ]
    return rule


@lru_cache
def program(kind: str) -> bytes:
    """The BPF program of a kind of process, compiled once."""
    return compile_profile(profile(ALLOWED[kind]), MACHINE)


def warm() -> None:
    """Compile them all: in the jail there are no tables to read, and clones of this process need not do it again."""
    for kind in ALLOWED:
        program(kind)
