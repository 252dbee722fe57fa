"""Holes in files: give blocks back without moving anything. fallocate(2)."""

from __future__ import annotations

import errno

from bireme.linux.libc import SyscallError, syscall
from bireme.linux.numbers import optional_number

_FALLOCATE = optional_number("fallocate")
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x1, 0x2, 0x10
_ABSENT = {errno.EOPNOTSUPP, errno.ENOSYS}


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Deallocate a range, which then reads as zeros; the size of the file stays. All in bytes; whole blocks are freed,
    the rest is zeroed. False when the file system or device cannot; SyscallError for anything else."""
    return _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)


def zero_range(fd: int, offset: int, length: int) -> bool:
    """Zero a range and keep its blocks allocated. As `punch_hole`."""
    return _fallocate(fd, _ZERO_RANGE | _KEEP_SIZE, offset, length)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    try:
        syscall("fallocate", _FALLOCATE, fd, mode, offset, length)
    except SyscallError as error:
        if error.errno in _ABSENT:
            return False
        raise
    return True
