"""The jail of a machine's processes: shut for good before the guest runs, when all they need is open.

What is left to a process whose guest has taken it over:

    files       none: its root is an empty tmpfs that nobody can write, the old root is gone
    network     none: an empty network namespace, and `socket` is not among its calls
    others      no signal, ptrace or shared memory: ipc and (the machine's) pid namespace, a user id of the slot's own
    privileges  none, and no way to get any: no capability in any set, no_new_privs, no execve
    the kernel  the calls of its kind (allowlist.py): another one kills the process
    resources   RLIMITs below, the machine's cgroup
    descriptors those that the caller names

    jail.leave_host()             main, once what needs the host's files and network is open: workers inherit it
    jail.enter("block", uid, keep_fds)

Credentials and filters belong to a thread: `enter` wants the process to have one, which is so after a fork and before
the machine runs. Later threads inherit both.

Python imports on demand, in odd places. In the jail there is no file to import from, and the attempt would be deadly:
`enter` takes the search path away, so that a late import is an ImportError that somebody can report. For the same
reason libc's malloc is told how many heaps it may make: it would open files to find out.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING, NamedTuple

from bireme.errors import Conflict, Denied, Invalid
from bireme.linux import capabilities, mount, namespaces, process, seccomp
from bireme.linux import fd as fdlib
from bireme.linux.libc import limit_malloc_arenas
from bireme.linux.process import CloneFlags
from bireme.vmm.allowlist import ALLOWED, program, warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NAMESPACES = CloneFlags.CLONE_NEWNS | CloneFlags.CLONE_NEWNET | CloneFlags.CLONE_NEWIPC | CloneFlags.CLONE_NEWUTS
ROOT_OPTIONS = (("mode", "0555"), ("size", "4096"), ("nr_inodes", "1"))
ROOT_ATTRIBUTES = (
    mount.MountAttr.MOUNT_ATTR_RDONLY
    | mount.MountAttr.MOUNT_ATTR_NOSUID
    | mount.MountAttr.MOUNT_ATTR_NODEV
    | mount.MountAttr.MOUNT_ATTR_NOEXEC
)
ANCHOR = "/proc"
"""Where the empty root is put for the moment before it becomes the root: a directory that every host has."""


class Limits(NamedTuple):
    """RLIMITs of a kind: soft and hard alike; None leaves what the process had."""

    files: int
    """One above the highest descriptor number."""
    threads: int
    """Processes and threads of the slot's user id, over all of the machine."""
    file_bytes: int | None
    """Largest size of a regular file it may write to."""


LIMITS = {
    "vmm": Limits(files=256, threads=64, file_bytes=None),
    "block": Limits(files=256, threads=0, file_bytes=None),
    "net": Limits(files=256, threads=0, file_bytes=0),
    "link": Limits(files=1024, threads=0, file_bytes=None),
    "entropy": Limits(files=256, threads=0, file_bytes=None),
}
"""main writes a report and perhaps a console, block the disks, link and entropy streams that may be files; the network
has no file to write. Only main starts threads."""

load: Callable[[bytes], None] = seccomp.load
"""Puts the filter on the process. Tests put a program here that asks a recorder about every call instead."""

_left = CloneFlags(0)
"""Namespaces that this process (or the one it was forked from) has left the host's for."""
_null = -1
"""/dev/null, opened while there was one: what the standard descriptors become."""


def leave_host(flags: int = NAMESPACES) -> None:
    """Into own namespaces; with CLONE_NEWNS also into an empty read-only root. Repeated calls do what is left to do.

    Needs CAP_SYS_ADMIN (Denied). Nothing can be opened afterwards.
    """
    global _left, _null
    wanted = CloneFlags(flags) & ~_left
    if not wanted:
        return
    if not capabilities.get_sets()[0] & capabilities.mask_of(["CAP_SYS_ADMIN"]):
        raise Denied("the jail needs root", subject="jail", hint="start it as root, or without a jail")
    warm()
    if _null < 0:
        _null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    namespaces.unshare(wanted)
    if wanted & CloneFlags.CLONE_NEWNS:
        _empty_root()
    _left |= wanted


def own_fds() -> list[int]:
    """What `leave_host` opened: a process forked after it keeps these until `enter`."""
    return [_null] if _null >= 0 else []


def _empty_root() -> None:
    mount.make_private()
    root = mount.new_filesystem("tmpfs", ROOT_OPTIONS, ROOT_ATTRIBUTES)
    try:
        mount.move_mount(root, mount.AT_FDCWD, ANCHOR)
    finally:
        os.close(root)
    mount.pivot_to(ANCHOR)


def enter(kind: str, uid: int, keep_fds: Iterable[int]) -> None:
    """Shut the jail behind the calling process, as user and group `uid`; `kind` is a key of `ALLOWED`.

    Descriptors 0, 1 and 2 become /dev/null unless they are kept; all others that are not in `keep_fds` are closed.
    Invalid for an unknown kind, Conflict when other threads run, Denied without root, SyscallError for what the kernel
    refuses. There is no way back, not even from a failure half-way: the caller ends then.
    """
    if kind not in ALLOWED:
        raise Invalid(f"no such kind of process: {kind}", subject=kind)
    _check_alone()
    code = program(kind)
    keep = sorted(set(keep_fds))
    leave_host()
    _close_others(keep)
    _limit(LIMITS[kind], max(keep, default=2))
    _drop_privileges(uid)
    _forget_imports()
    limit_malloc_arenas(1)
    load(code)


def _check_alone() -> None:
    """By the kernel's count: Python's does not know the threads of libraries."""
    try:
        threads = len(os.listdir("/proc/self/task"))
    except FileNotFoundError:
        threads = len(sys._current_frames())
    if threads != 1:
        raise Conflict(f"{threads} threads: a jail is entered before the threads are started", subject="jail")


def _close_others(keep: list[int]) -> None:
    for fd in {0, 1, 2} - set(keep):
        os.dup2(_null, fd)
    fdlib.close_all_but(keep)


def _limit(limits: Limits, highest_fd: int) -> None:
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_NOFILE, max(limits.files, highest_fd + 1))
    _set_limit(resource.RLIMIT_NPROC, limits.threads)
    if limits.file_bytes is not None:
        _set_limit(resource.RLIMIT_FSIZE, limits.file_bytes)


def _set_limit(which: int, value: int) -> None:
    """Soft and hard; a hard limit that is lower already stays."""
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _drop_privileges(uid: int) -> None:
    """Bounding set first (it takes a capability), then the user, then what a user id of 0 would have kept.

    A change of the user clears the signal of the parent's death: it is put back.
    """
    at_death = process.pdeathsig()
    capabilities.set_ambient(0)
    capabilities.drop_bounding(0)
    process.set_ids(uid, uid)
    capabilities.set_sets(0, 0, 0)
    process.set_no_new_privs()
    process.set_dumpable(False)
    process.set_pdeathsig(at_death)


def _forget_imports() -> None:
    sys.path[:] = []
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "PathFinder"]
