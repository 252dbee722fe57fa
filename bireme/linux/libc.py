"""The one C handle of the project.

Every call goes through `syscall` (by number, so that no glibc version is assumed) or a function declared here.
PyDLL keeps the GIL: the calls on the hot path take microseconds and giving it up costs a hand-over. Calls that may
block go through `blocking_syscall` (CDLL).
"""

from __future__ import annotations

import ctypes
import errno as _errno
import os
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_libc = ctypes.PyDLL(None, use_errno=True)  # noqa: TID251
_blocking_libc = ctypes.CDLL(None, use_errno=True)  # noqa: TID251

Long = ctypes.c_long


class _Library(Protocol):
    def __getitem__(self, name: str) -> Any: ...


def _by_count(library: _Library) -> tuple[Callable[..., int], ...]:
    """The function `syscall` once for each number of arguments: with declared types ctypes converts in C. c_void_p
    takes integers, None, bytes and buffers alike."""
    found = []
    for count in range(7):
        function = library["syscall"]
        function.restype = Long
        function.argtypes = (Long, *[ctypes.c_void_p] * count)
        found.append(function)
    return tuple(found)


_syscalls = _by_count(_libc)
_blocking = _by_count(_blocking_libc)

MACHINE = os.uname().machine


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


def syscall(call: str, number: int, *args: object, subject: str = "") -> int:
    """Run system call `number` with at most six arguments: integers, bytes, None or ctypes buffers.

    Retries on EINTR; raises SyscallError(call, subject).
    """
    function = _syscalls[len(args)]
    while True:
        result = function(number, *args)
        if result >= 0:
            return result
        code = ctypes.get_errno()
        if code != _errno.EINTR:
            raise SyscallError(code, call, subject)


def prepare(number: int, *args: object) -> tuple[Callable[..., int], tuple[object, ...]]:
    """What `syscall` would call, and with what: for steps.py. The result is -1 and errno set on failure."""
    return _syscalls[len(args)], (number, *args)


def blocking_syscall(call: str, number: int, *args: object, subject: str = "") -> int:
    """Like `syscall`, without the GIL and without the EINTR retry (the caller's signals matter there)."""
    result = _blocking[len(args)](number, *args)
    if result < 0:
        raise SyscallError(ctypes.get_errno(), call, subject)
    return result


_M_ARENA_MAX = -8


def limit_malloc_arenas(count: int) -> None:
    """At most `count` heaps for the threads of this process; mallopt(3) M_ARENA_MAX. Nothing where libc has no mallopt.

    Without a limit glibc looks for the number of processors when the ninth thread starts, in files.
    """
    try:
        mallopt = _libc["mallopt"]
    except AttributeError:
        return
    mallopt(_M_ARENA_MAX, count)
