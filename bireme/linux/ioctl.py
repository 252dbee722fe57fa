"""ioctl numbers, computed as the kernel's _IO, _IOR, _IOW and _IOWR macros do, and the call itself.

asm-generic/ioctl.h: two bits of direction, 14 of size, 8 of type, 8 of number (x86 and arm alike).
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from bireme.linux.libc import SyscallError

if TYPE_CHECKING:
    from struct import Struct

_NONE, _WRITE, _READ = 0, 1, 2


def _ioc(direction: int, kind: int | str, nr: int, size: int) -> int:
    letter = ord(kind) if isinstance(kind, str) else kind
    return direction << 30 | size << 16 | letter << 8 | nr


def io(kind: int | str, nr: int) -> int:
    """_IO(type, nr): no argument, or an integer one."""
    return _ioc(_NONE, kind, nr, 0)


def ior(kind: int | str, nr: int, layout: Struct | int) -> int:
    """_IOR(type, nr, struct): the kernel writes, we read. `layout` is the struct or its size in bytes."""
    return _ioc(_READ, kind, nr, layout if isinstance(layout, int) else layout.size)


def iow(kind: int | str, nr: int, layout: Struct | int) -> int:
    """_IOW(type, nr, struct): we write, the kernel reads."""
    return _ioc(_WRITE, kind, nr, layout if isinstance(layout, int) else layout.size)


def iowr(kind: int | str, nr: int, layout: Struct | int) -> int:
    """_IOWR(type, nr, struct)."""
    return _ioc(_READ | _WRITE, kind, nr, layout if isinstance(layout, int) else layout.size)


def ioctl(fd: int, request: int, argument: int | bytearray | bytes = 0, *, subject: str = "") -> int:
    """ioctl(2): an integer argument, or a bytearray that is filled in place. Raises SyscallError."""
    try:
        if isinstance(argument, bytearray):
            return int(fcntl.ioctl(fd, request, argument, True))
        result: object = fcntl.ioctl(fd, request, argument)
    except OSError as error:
        raise SyscallError(error.errno or 0, "ioctl", subject or os.strerror(error.errno or 0)) from None
    return result if isinstance(result, int) else 0
