"""Capabilities: names, masks and the calls that set them. capabilities(7)."""

from __future__ import annotations

import ctypes
import errno
import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from bireme.errors import Invalid
from bireme.linux.libc import SyscallError, syscall
from bireme.linux.numbers import optional_number

if TYPE_CHECKING:
    from collections.abc import Iterable

_CAPGET = optional_number("capget")
_CAPSET = optional_number("capset")
_PRCTL = optional_number("prctl")

NAMES: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
"""By number; uapi linux/capability.h."""

_BITS = {name: 1 << bit for bit, name in enumerate(NAMES)}
ALL = (1 << len(NAMES)) - 1

DEFAULT: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
"""The 14 that a container of Docker has."""

SETPCAP = _BITS["CAP_SETPCAP"]

_VERSION_3 = 0x20080522
_HEADER = struct.pack("=Ii", _VERSION_3, 0)
_sets = struct.Struct("=6I")
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_PR_SET_KEEPCAPS = 8


def mask_of(names: Iterable[str]) -> int:
    """The bit mask of capability names (CAP_X); Invalid for a name that does not exist."""
    return _mask_of(tuple(names))


@lru_cache(maxsize=64)
def _mask_of(names: tuple[str, ...]) -> int:
    mask = 0
    for name in names:
        bit = _BITS.get(name.upper())
        if bit is None:
            raise Invalid(f"unknown capability {name}", subject=name)
        mask |= bit
    return mask


def names_of(mask: int) -> list[str]:
    """The names of the bits set, lowest first; bits without a name are left out."""
    return [name for bit, name in enumerate(NAMES) if mask >> bit & 1]


def get_sets() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of this thread; capget(2)."""
    buffer = ctypes.create_string_buffer(_sets.size)
    syscall("capget", _CAPGET, _HEADER, buffer)
    e0, p0, i0, e1, p1, i1 = _sets.unpack(buffer.raw)
    return e0 | e1 << 32, p0 | p1 << 32, i0 | i1 << 32


def set_sets(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2). EPERM: permitted can only shrink, effective must be within it."""
    low = 0xFFFFFFFF
    block = _sets.pack(
        effective & low, permitted & low, inheritable & low, effective >> 32, permitted >> 32, inheritable >> 32
    )
    syscall("capset", _CAPSET, _HEADER, block)


def set_effective_to_permitted() -> None:
    """Raise every permitted capability: what setfsuid and seteuid take away comes back."""
    _, permitted, inheritable = get_sets()
    set_sets(permitted, permitted, inheritable)


def bounding() -> int:
    """The bounding set of this thread, by asking for every bit."""
    mask = 0
    for bit in range(64):
        try:
            if syscall("prctl", _PRCTL, _PR_CAPBSET_READ, bit, 0, 0, 0):
                mask |= 1 << bit
        except SyscallError as error:
            if error.errno == errno.EINVAL:
                break
            raise
    return mask


def last_capability() -> int:
    """The highest capability this kernel knows; /proc/sys/kernel/cap_last_cap or by asking."""
    try:
        with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
            return int(file.read())
    except OSError:
        return len(NAMES) - 1


_LAST = last_capability()
KNOWN = (1 << (_LAST + 1)) - 1
"""Every capability of this kernel, named here or not."""


def drop_bounding(keep: int) -> None:
    """Drop from the bounding set everything outside `keep`: needs CAP_SETPCAP. PR_CAPBSET_DROP."""
    for bit in range(_LAST + 1):
        if not keep >> bit & 1:
            syscall("prctl", _PRCTL, _PR_CAPBSET_DROP, bit, 0, 0, 0)


def keep_over_setuid(on: bool) -> None:
    """Whether permitted capabilities survive a change of all uids away from 0. PR_SET_KEEPCAPS."""
    syscall("prctl", _PRCTL, _PR_SET_KEEPCAPS, int(on), 0, 0, 0, subject="PR_SET_KEEPCAPS")


def set_ambient(mask: int) -> None:
    """The ambient set, from nothing: each bit must be permitted and inheritable. PR_CAP_AMBIENT."""
    syscall("prctl", _PRCTL, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, subject="PR_CAP_AMBIENT")
    bit = 0
    while mask >> bit:
        if mask >> bit & 1:
            syscall("prctl", _PRCTL, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, bit, 0, 0, subject="PR_CAP_AMBIENT")
        bit += 1
