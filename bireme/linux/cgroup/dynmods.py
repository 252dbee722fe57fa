"""The `favordynmods` switch: attaching processes without waiting for an RCU grace period.

Moving a process between cgroups takes a lock whose cheap mode makes writers wait: after 50 ms without an attach the
first one takes 10 to 14 ms. Since Linux 6.0 a hierarchy mounted with `favordynmods` turns that mode off for the whole
system (13.5 -> 0.4 ms for nine attaches; every fork and exit pays a few nanoseconds more).

Remounting other people's hierarchies is not ours to do, so an own, empty, named v1 hierarchy is mounted, detached:
nobody sees it, and closing the descriptor (or dying) undoes it. Linux 6.18 keeps the mode until reboot all the same.
"""

from __future__ import annotations

import errno
import os

from bireme.errors import Denied, Unsupported
from bireme.linux.libc import SyscallError, syscall

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CMD_CREATE = 0, 1, 6


def open_dynmods(name: str = "bireme") -> int:
    """A descriptor that keeps the switch on while open. Unsupported before Linux 6.0, Denied without the right."""
    try:
        context = syscall("fsopen", _FSOPEN, b"cgroup", _FSOPEN_CLOEXEC, subject="cgroup")
        try:
            syscall("fsconfig", _FSCONFIG, context, _SET_FLAG, b"none", None, 0, subject="none")
            syscall("fsconfig", _FSCONFIG, context, _SET_STRING, b"name", name.encode() + b"\0", 0, subject="name")
            syscall("fsconfig", _FSCONFIG, context, _SET_FLAG, b"favordynmods", None, 0, subject="favordynmods")
            syscall("fsconfig", _FSCONFIG, context, _CMD_CREATE, None, None, 0, subject="create")
            return syscall("fsmount", _FSMOUNT, context, _FSMOUNT_CLOEXEC, 0, subject="cgroup")
        finally:
            os.close(context)
    except SyscallError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise Denied("favordynmods needs CAP_SYS_ADMIN", subject="favordynmods") from error
        raise Unsupported(
            f"favordynmods is not available: {error}", subject="favordynmods", hint="it needs Linux 6.0"
        ) from error
