"""The one C handle of the project.

Every call goes through `syscall` (by number, so that no glibc version is assumed) or a function declared here.
PyDLL keeps the GIL: the calls on the hot path take microseconds and giving it up costs a hand-over. Calls that may
block go through `blocking_syscall` (CDLL).
"""

from __future__ import annotations

import ctypes
import errno as _errno
import os
import platform

_libc = ctypes.PyDLL(None, use_errno=True)  # noqa: TID251
_blocking_libc = ctypes.CDLL(None, use_errno=True)  # noqa: TID251

_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_blocking = _blocking_libc.syscall
_blocking.restype = ctypes.c_long

Long = ctypes.c_long

MACHINE = platform.machine()


class SyscallError(OSError):
    """A failed system call: OSError with the name of the call and what it was about.

    `errno` matching works as with OSError: `except FileNotFoundError` does not catch it, compare `error.errno`.
    """

    def __init__(self, errno: int, call: str, subject: str = "") -> None:
        super().__init__(errno, os.strerror(errno))
        self.call = call
        self.subject = subject

    def __str__(self) -> str:
        about = f" {self.subject}" if self.subject else ""
        name = _errno.errorcode.get(self.errno or 0, str(self.errno))
        return f"{self.call}{about}: {self.strerror} ({name})"


def _convert(value: object) -> object:
    return Long(value) if isinstance(value, int) else value


def syscall(call: str, number: int, *args: object, subject: str = "") -> int:
    """Run system call `number`; retries on EINTR; raises SyscallError(call, subject). Integers are passed as long."""
    converted = [_convert(a) for a in args]
    while True:
        result = _syscall(Long(number), *converted)
        if result >= 0:
            return int(result)
        code = ctypes.get_errno()
        if code != _errno.EINTR:
            raise SyscallError(code, call, subject)


def blocking_syscall(call: str, number: int, *args: object, subject: str = "") -> int:
    """Like `syscall`, without the GIL and without the EINTR retry (the caller's signals matter there)."""
    result = _blocking(Long(number), *[_convert(a) for a in args])
    if result < 0:
        raise SyscallError(ctypes.get_errno(), call, subject)
    return int(result)
