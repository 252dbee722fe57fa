"""Processes: clone3, pidfds, waiting, and the prctl switches a child of ours needs.

`clone3` calls the kernel, not glibc's fork: no atfork handlers run, so only a process with one thread may use it, and
the child must go on to exec or `os._exit`. `fork` is for helpers that live on as Python programs.

A child made with CLONE_PARENT belongs to the caller's parent and inherits the caller's own exit signal, so that
`clone3(..., exit_signal=0)` from a normally forked zygote still gives the grandparent SIGCHLD.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
from enum import IntFlag
from typing import NamedTuple

from bireme.linux.ioctl import ioctl, iowr
from bireme.linux.libc import MACHINE, SyscallError, syscall
from bireme.linux.numbers import number, optional_number


class CloneFlags(IntFlag):
    """Flags of clone3(2), unshare(2) and setns(2); uapi linux/sched.h."""

    CLONE_NEWTIME = 0x00000080
    CLONE_VM = 0x00000100
    CLONE_PIDFD = 0x00001000
    CLONE_VFORK = 0x00004000
    CLONE_PARENT = 0x00008000
    CLONE_NEWNS = 0x00020000
    CLONE_NEWCGROUP = 0x02000000
    CLONE_NEWUTS = 0x04000000
    CLONE_NEWIPC = 0x08000000
    CLONE_NEWUSER = 0x10000000
    CLONE_NEWPID = 0x20000000
    CLONE_NEWNET = 0x40000000
    CLONE_INTO_CGROUP = 0x200000000


_CLONE_PIDFD = 0x1000
_CLONE_PARENT = 0x8000
_CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17
_SIGKILL = 9

_CLONE3 = number("clone3")
_CLOSE_RANGE = number("close_range")
_PIDFD_OPEN = number("pidfd_open")
_PIDFD_SEND_SIGNAL = number("pidfd_send_signal")
_PIDFD_GETFD = number("pidfd_getfd")
_SETGROUPS = optional_number("setgroups")
_SETRESGID = optional_number("setresgid")
_SETRESUID = optional_number("setresuid")
_PRCTL = optional_number("prctl")
_RT_SIGACTION = optional_number("rt_sigaction")
_RT_SIGPROCMASK = optional_number("rt_sigprocmask")

_clone_args = struct.Struct("=11Q")

_PR_SET_PDEATHSIG = 1
_PR_GET_PDEATHSIG = 2
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38


def clone3(flags: int = 0, *, exit_signal: int = _SIGCHLD, pidfd: bool = False, cgroup_fd: int = -1) -> tuple[int, int]:
    """clone3(2): (pid, pidfd) in the parent, (0, -1) in the child; pidfd is -1 unless asked for (it is CLOEXEC).

    With CLONE_PARENT the kernel wants exit_signal 0 and it is passed as such. `cgroup_fd` (cgroup v2 directory) adds
    CLONE_INTO_CGROUP. Raises SyscallError; ENOSPC or EUSERS mean a namespace limit (/proc/sys/user/max_*).
    """
    cell = ctypes.c_int(-1)
    address = 0
    flags = int(flags)
    if pidfd:
        flags |= _CLONE_PIDFD
        address = ctypes.addressof(cell)
    if cgroup_fd >= 0:
        flags |= _CLONE_INTO_CGROUP
    if flags & _CLONE_PARENT:
        exit_signal = 0
    block = _clone_args.pack(flags, address, 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup_fd if cgroup_fd >= 0 else 0)
    pid = syscall("clone3", _CLONE3, block, _clone_args.size)
    if pid == 0:
        return 0, -1
    return pid, cell.value


def fork() -> int:
    """Fork a helper that goes on as a Python program (runs the interpreter's after-fork work). fork(2)."""
    return os.fork()  # noqa: TID251


def pidfd_open(pid: int) -> int:
    """A descriptor (CLOEXEC) of process `pid`; SyscallError ESRCH when there is none. pidfd_open(2)."""
    return syscall("pidfd_open", _PIDFD_OPEN, pid, 0, subject=str(pid))


def pidfd_send_signal(pidfd: int, signum: int) -> bool:
    """Send a signal; False when the process is gone already. pidfd_send_signal(2)."""
    try:
        syscall("pidfd_send_signal", _PIDFD_SEND_SIGNAL, pidfd, signum, None, 0)
    except SyscallError as error:
        if error.errno == errno.ESRCH:
            return False
        raise
    return True


def kill_and_wait(pidfd: int) -> None:
    """SIGKILL, and wait until the process has ended; whoever is its parent still has to reap it."""
    if pidfd_send_signal(pidfd, _SIGKILL):
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        ended.poll()


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A duplicate (CLOEXEC) of descriptor `fd` of another process. pidfd_getfd(2)."""
    return syscall("pidfd_getfd", _PIDFD_GETFD, pidfd, fd, 0)


class Exit(NamedTuple):
    """How a process ended: `code` is the exit code or 128 + signal, `signal` 0 unless it was killed."""

    pid: int
    code: int
    signal: int


def exit_of(pid: int, si_code: int, si_status: int) -> Exit:
    """Exit from the fields of a siginfo (waitid(2))."""
    if si_code == os.CLD_EXITED:
        return Exit(pid, si_status, 0)
    return Exit(pid, 128 + si_status, si_status)


_WALL = 0x40000000


def wait_pidfd(pidfd: int, *, block: bool = True, keep: bool = False) -> Exit | None:
    """Reap the child behind a pidfd; None when it still runs and `block` is false.

    `keep` leaves it waitable (WNOWAIT): read the code, write it down, then reap. ChildProcessError when it is not our
    child or was reaped. waitid(2).
    """
    return _wait(os.P_PIDFD, pidfd, block, keep)


def wait_pid(pid: int, *, block: bool = True, keep: bool = False) -> Exit | None:
    """As `wait_pidfd` for a pid."""
    return _wait(os.P_PID, pid, block, keep)


def wait_any(*, keep: bool = False) -> Exit | None:
    """One child that has ended, or None when none has; ChildProcessError when there is no child at all."""
    return _wait(os.P_ALL, 0, False, keep)


def _wait(kind: int, which: int, block: bool, keep: bool) -> Exit | None:
    options = os.WEXITED | _WALL
    if not block:
        options |= os.WNOHANG
    if keep:
        options |= os.WNOWAIT
    info = os.waitid(kind, which, options)
    if info is None or info.si_pid == 0:
        return None
    return exit_of(info.si_pid, info.si_code, info.si_status)


def status_to_exit(pid: int, status: int) -> Exit:
    """Exit from a wait status word (as wait4(2) and PIDFD_GET_INFO give it)."""
    if os.WIFSIGNALED(status):
        signum = os.WTERMSIG(status)
        return Exit(pid, 128 + signum, signum)
    return Exit(pid, os.WEXITSTATUS(status), 0)


def prctl(option: int, argument: int = 0, *more: int, subject: str = "") -> int:
    """prctl(2) with integer arguments."""
    rest = [*more, 0, 0, 0][:3]
    return syscall("prctl", _PRCTL, option, argument, *rest, subject=subject)


def set_subreaper(on: bool = True) -> None:
    """Orphaned descendants become children of this process. PR_SET_CHILD_SUBREAPER."""
    prctl(_PR_SET_CHILD_SUBREAPER, int(on), subject="PR_SET_CHILD_SUBREAPER")


def set_pdeathsig(signum: int) -> None:
    """Get `signum` when the parent thread ends (0: never). Cleared by a change of credentials. PR_SET_PDEATHSIG."""
    prctl(_PR_SET_PDEATHSIG, signum, subject="PR_SET_PDEATHSIG")


def pdeathsig() -> int:
    """What `set_pdeathsig` said, 0 when nothing is sent. PR_GET_PDEATHSIG."""
    cell = ctypes.c_int()
    syscall("prctl", _PRCTL, _PR_GET_PDEATHSIG, ctypes.byref(cell), 0, 0, 0, subject="PR_GET_PDEATHSIG")
    return cell.value


def set_dumpable(on: bool) -> None:
    """Whether others of the same user may ptrace this process or open its /proc files. PR_SET_DUMPABLE.

    Off makes root of the initial namespace the owner of /proc/PID; execve of a readable program turns it on again.
    """
    prctl(_PR_SET_DUMPABLE, int(on), subject="PR_SET_DUMPABLE")


def set_name(name: str) -> None:
    """The name in /proc/self/comm: 15 bytes are kept. PR_SET_NAME."""
    block = ctypes.create_string_buffer(name.encode()[:15], 16)
    syscall("prctl", _PRCTL, _PR_SET_NAME, block, 0, 0, 0, subject="PR_SET_NAME")


def set_title(text: str) -> None:
    """What /proc/self/cmdline shows from now on, cut where the original arguments ended.

    The kernel shows the memory that held them; proc_pid_stat(5), arg_start and arg_end.
    """
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    room = end - start - 1
    if start and room > 0:
        ctypes.memmove(start, text.encode()[:room].ljust(room, b"\0"), room)


_DEFAULT_ACTION = bytes(32)
_NO_SIGNALS = bytes(8)
_SIG_SETMASK = 2


def default_signals(numbers: tuple[int, ...]) -> None:
    """Default actions for these signals and none blocked; rt_sigaction(2), rt_sigprocmask(2).

    Behind the interpreter's back, for a process about to execute: the signal module does the same through its enums.
    """
    for signum in numbers:
        syscall("rt_sigaction", _RT_SIGACTION, signum, _DEFAULT_ACTION, None, 8)
    syscall("rt_sigprocmask", _RT_SIGPROCMASK, _SIG_SETMASK, _NO_SIGNALS, None, 8)


def set_ids(uid: int, gid: int, groups: tuple[int, ...] | list[int] = ()) -> None:
    """Supplementary groups, then all gids, then all uids of this thread; setresuid(2).

    The system calls, not glibc's functions: those signal every thread of a list that is stale after a bare clone3.
    """
    syscall("setgroups", _SETGROUPS, len(groups), struct.pack(f"={len(groups)}I", *groups) if groups else None)
    syscall("setresgid", _SETRESGID, gid, gid, gid, subject=str(gid))
    syscall("setresuid", _SETRESUID, uid, uid, uid, subject=str(uid))


def set_no_new_privs() -> None:
    """execve never grants privileges again, in this process and its children. PR_SET_NO_NEW_PRIVS."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1, subject="PR_SET_NO_NEW_PRIVS")


class PidfdInfo(NamedTuple):
    """What PIDFD_GET_INFO says; `exit` is None while the process runs or when the kernel does not keep it."""

    pid: int
    tgid: int
    ppid: int
    cgroup_id: int
    exit: Exit | None


_PIDFD_INFO = struct.Struct("=QQ11Ii")
_PIDFD_INFO_PID = 1
_PIDFD_INFO_CGROUPID = 4
_PIDFD_INFO_EXIT = 8
_PIDFD_GET_INFO = iowr(0xFF, 11, _PIDFD_INFO)


def pidfd_info(pidfd: int) -> PidfdInfo | None:
    """Facts about a process we need not be the parent of, exit status included once it was reaped (Linux 6.15).

    None when the kernel has no PIDFD_GET_INFO (before 6.13) or knows nothing any more (reaped before 6.15).
    """
    block = bytearray(_PIDFD_INFO.size)
    _PIDFD_INFO.pack_into(block, 0, _PIDFD_INFO_PID | _PIDFD_INFO_CGROUPID | _PIDFD_INFO_EXIT, *([0] * 13))
    try:
        ioctl(pidfd, _PIDFD_GET_INFO, block, subject="PIDFD_GET_INFO")
    except SyscallError as error:
        if error.errno in (
            errno.ENOTTY,
            errno.EINVAL,
            errno.ESRCH,
            errno.ENOIOCTLCMD if hasattr(errno, "ENOIOCTLCMD") else 515,
        ):
            return None
        raise
    fields = _PIDFD_INFO.unpack(block)
    mask, cgroup_id, pid, tgid, ppid = fields[:5]
    ended = status_to_exit(pid, fields[13]) if mask & _PIDFD_INFO_EXIT else None
    return PidfdInfo(pid, tgid, ppid, cgroup_id, ended)


_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}.get(MACHINE, -1)


def set_io_priority(value: int) -> None:
    """I/O class and level of this process, class << 13 | level. ioprio_set(2)."""
    syscall("ioprio_set", _IOPRIO_SET, 1, 0, value)
