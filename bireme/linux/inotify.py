"""inotify(7): being told of changes in directories, as little of it as we need."""

from __future__ import annotations

import errno
import os
import struct

from bireme.linux.libc import MACHINE, SyscallError, syscall

IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_NONBLOCK = os.O_NONBLOCK
IN_CLOEXEC = os.O_CLOEXEC

_INIT, _ADD, _REMOVE = (294, 254, 255) if MACHINE == "x86_64" else (26, 27, 28)
_EVENT = struct.Struct("iIII")


class Inotify:
    """One inotify instance, non-blocking. Watch numbers are per inode; the same directory gives the same number."""

    def __init__(self) -> None:
        self.fd = syscall("inotify_init1", _INIT, IN_NONBLOCK | IN_CLOEXEC)

    def add(self, path: str, mask: int) -> int:
        """Watch `path` for `mask`; returns the watch number. SyscallError ENOSPC when the user's limit is reached."""
        return syscall("inotify_add_watch", _ADD, self.fd, os.fsencode(path), mask, subject=path)

    def remove(self, watch: int) -> None:
        """Stop a watch; one that ended with its directory is no error."""
        try:
            syscall("inotify_rm_watch", _REMOVE, self.fd, watch)
        except SyscallError as error:
            if error.errno != errno.EINVAL:
                raise

    def read(self) -> list[int]:
        """The watch numbers of what happened since the last call, in order, with repeats; [] when nothing did."""
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return []
        found, offset = [], 0
        while offset < len(data):
            watch, _, _, length = _EVENT.unpack_from(data, offset)
            found.append(watch)
            offset += _EVENT.size + length
        return found

    def close(self) -> None:
        os.close(self.fd)
