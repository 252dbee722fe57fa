"""System call numbers, by name. Calls since 424 have one number everywhere; older ones are listed per machine.

Only what this package calls is listed. An unknown machine gets x86_64's spelling of the error at first use, never a
wrong number.
"""

from __future__ import annotations

from bireme.errors import Unsupported
from bireme.linux.libc import MACHINE

_OLD: dict[str, dict[str, int]] = {
    "x86_64": {
        "capget": 125,
        "capset": 126,
        "chroot": 161,
        "fallocate": 285,
        "inotify_add_watch": 254,
        "inotify_init1": 294,
        "inotify_rm_watch": 255,
        "ioctl": 16,
        "keyctl": 250,
        "madvise": 28,
        "mkdirat": 258,
        "mount": 165,
        "name_to_handle_at": 303,
        "pivot_root": 155,
        "rt_sigaction": 13,
        "rt_sigprocmask": 14,
        "prctl": 157,
        "seccomp": 317,
        "setdomainname": 171,
        "setgroups": 116,
        "setresgid": 119,
        "setresuid": 117,
        "setfsgid": 123,
        "setfsuid": 122,
        "sethostname": 170,
        "setns": 308,
        "symlinkat": 266,
        "syncfs": 306,
        "tee": 276,
        "umount2": 166,
        "unshare": 272,
        "waitid": 247,
    },
    "aarch64": {
        "capget": 90,
        "capset": 91,
        "chroot": 51,
        "fallocate": 47,
        "inotify_add_watch": 27,
        "inotify_init1": 26,
        "inotify_rm_watch": 28,
        "ioctl": 29,
        "keyctl": 219,
        "madvise": 233,
        "mkdirat": 34,
        "mount": 40,
        "name_to_handle_at": 264,
        "pivot_root": 41,
        "rt_sigaction": 134,
        "rt_sigprocmask": 135,
        "prctl": 167,
        "seccomp": 277,
        "setdomainname": 162,
        "setgroups": 159,
        "setresgid": 149,
        "setresuid": 147,
        "setfsgid": 152,
        "setfsuid": 151,
        "sethostname": 161,
        "setns": 268,
        "symlinkat": 36,
        "syncfs": 267,
        "tee": 77,
        "umount2": 39,
        "unshare": 97,
        "waitid": 95,
    },
}

_SHARED: dict[str, int] = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "statmount": 457,
    "listmount": 458,
}


def number(name: str) -> int:
    """The number of system call `name` on this machine; Unsupported when the machine is not in the table."""
    if name in _SHARED:
        return _SHARED[name]
    table = _OLD.get(MACHINE)
    if table is None:
        raise Unsupported(f"system call numbers of {MACHINE} are not known", subject=name)
    return table[name]


def optional_number(name: str) -> int:
    """As `number`, but -1 (the kernel says ENOSYS) on a machine without a table: for module constants."""
    try:
        return number(name)
    except Unsupported:
        return -1
