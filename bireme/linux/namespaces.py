"""Namespaces: enter, leave, map identities. namespaces(7), user_namespaces(7)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from bireme.linux.libc import SyscallError, syscall
from bireme.linux.numbers import optional_number
from bireme.linux.process import CloneFlags

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_UNSHARE = optional_number("unshare")
_SETNS = optional_number("setns")
_SETHOSTNAME = optional_number("sethostname")
_SETDOMAINNAME = optional_number("setdomainname")
_SETFSUID = optional_number("setfsuid")
_SETFSGID = optional_number("setfsgid")

KINDS: dict[str, CloneFlags] = {
    "user": CloneFlags.CLONE_NEWUSER,
    "mnt": CloneFlags.CLONE_NEWNS,
    "pid": CloneFlags.CLONE_NEWPID,
    "net": CloneFlags.CLONE_NEWNET,
    "ipc": CloneFlags.CLONE_NEWIPC,
    "uts": CloneFlags.CLONE_NEWUTS,
    "cgroup": CloneFlags.CLONE_NEWCGROUP,
    "time": CloneFlags.CLONE_NEWTIME,
}
"""Names under /proc/PID/ns to their flags."""
_NUMBERS = {kind: int(flag) for kind, flag in KINDS.items()}


def flags_of(kinds: Iterable[str]) -> int:
    """The flags of several kinds, added up as plain numbers: each operation on an IntFlag is a dozen calls."""
    flags = 0
    for kind in kinds:
        flags |= _NUMBERS[kind]
    return flags


class IdMap(NamedTuple):
    """`length` ids starting at `inside` of the namespace are the host's ids starting at `outside`."""

    inside: int
    outside: int
    length: int


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for new ones; unshare(2)."""
    syscall("unshare", _UNSHARE, int(flags))


def setns(fd: int, flags: int = 0, *, subject: str = "") -> None:
    """Enter the namespace of `fd` (an nsfs descriptor), or several at once of a pidfd; setns(2).

    A pid namespace counts for children only.
    """
    syscall("setns", _SETNS, fd, int(flags), subject=subject)


def open_namespace(pid: int | str, kind: str, *, proc: str = "/proc") -> int:
    """A descriptor (CLOEXEC) of the namespace `kind` of a process ("self" allowed)."""
    path = f"{proc}/{pid}/ns/{kind}"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SyscallError(error.errno or 0, "open", path) from None


def namespace_inodes(pid: int | str = "self") -> dict[str, int]:
    """The inode number of every namespace of a process: two processes share one when its numbers are equal."""
    found = {}
    for kind in KINDS:
        try:
            found[kind] = os.stat(f"/proc/{pid}/ns/{kind}").st_ino
        except FileNotFoundError:
            continue
    return found


def write_id_maps(
    pid: int | str, uids: Sequence[Sequence[int]], gids: Sequence[Sequence[int]], *, allow_setgroups: bool = True
) -> None:
    """Give a new user namespace its identities, rows as in IdMap; legal once, by a process privileged over it.
    user_namespaces(7)."""
    base = f"/proc/{pid}"
    _write(f"{base}/uid_map", format_id_map(uids))
    if not allow_setgroups:
        _write(f"{base}/setgroups", b"deny")
    _write(f"{base}/gid_map", format_id_map(gids))


def format_id_map(maps: Sequence[Sequence[int]]) -> bytes:
    """The text of uid_map: one line per extent (at most 340)."""
    return b"".join(b"%d %d %d\n" % tuple(entry) for entry in maps)


def _write(path: str, data: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
    except OSError as error:
        raise SyscallError(error.errno or 0, "write", path) from None


def set_hostname(name: str) -> None:
    """sethostname(2): at most 64 bytes."""
    data = name.encode()
    syscall("sethostname", _SETHOSTNAME, data, len(data), subject=name)


def set_domainname(name: str) -> None:
    """setdomainname(2): at most 64 bytes."""
    data = name.encode()
    syscall("setdomainname", _SETDOMAINNAME, data, len(data), subject=name)


def set_filesystem_ids(uid: int, gid: int) -> None:
    """Identity of this thread for file system checks and new files; setfsuid(2).

    Leaving uid 0 drops the file capabilities (CAP_DAC_OVERRIDE, CAP_CHOWN, ...) from the effective set: put them back
    with capabilities.set_effective. The calls report no error: SyscallError EPERM when the ids did not change.
    """
    syscall("setfsgid", _SETFSGID, gid)
    syscall("setfsuid", _SETFSUID, uid)
    if syscall("setfsgid", _SETFSGID, -1) != gid or syscall("setfsuid", _SETFSUID, -1) != uid:
        raise SyscallError(1, "setfsuid", f"{uid}:{gid}")
