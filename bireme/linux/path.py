"""Paths inside a root we do not trust.

An image may hold a symbolic link at any place we are about to mount on or write to. Every look-up of such a path goes
through openat2(2) with RESOLVE_IN_ROOT (absolute links and `..` stay inside the root, as after chroot) and
RESOLVE_NO_MAGICLINKS (no /proc/PID/fd jumps), and yields a descriptor that is used from then on.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from enum import IntFlag

from bireme.linux.libc import SyscallError, syscall
from bireme.linux.numbers import number

_OPENAT2 = number("openat2")
_open_how = struct.Struct("=QQQ")


class Resolve(IntFlag):
    """RESOLVE_* of openat2(2)."""

    RESOLVE_NO_XDEV = 0x01
    RESOLVE_NO_MAGICLINKS = 0x02
    RESOLVE_NO_SYMLINKS = 0x04
    RESOLVE_BENEATH = 0x08
    RESOLVE_IN_ROOT = 0x10


_INSIDE = 0x10 | 0x02
_TRIES = 64
_MAX_DEPTH = 255


def openat2(directory: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2): a descriptor, O_CLOEXEC added. `mode` only with O_CREAT. Raises SyscallError."""
    how = _open_how.pack(flags | os.O_CLOEXEC, mode, int(resolve))
    name = os.fsencode(path)
    return syscall("openat2", _OPENAT2, directory, name, how, _open_how.size, subject=os.fsdecode(name))


def open_in_root(root: int, path: str, flags: int = os.O_PATH, *, mode: int = 0) -> int:
    """Open `path` as if `root` (a directory descriptor) were "/". Raises SyscallError ENOENT, ELOOP, ENOTDIR..."""
    for _ in range(_TRIES):
        try:
            return openat2(root, path or "/", flags, mode=mode, resolve=_INSIDE)
        except SyscallError as error:
            if error.errno != errno.EAGAIN:
                raise
    raise SyscallError(errno.EAGAIN, "openat2", path)


def make_directories(root: int, path: str, mode: int = 0o755) -> int:
    """Open directory `path` inside `root`, made with its parents where absent; an O_PATH descriptor.

    Links on the way are followed inside the root. A dangling link as the last step is ENOENT, not followed by a mkdir.
    """
    try:
        return open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    at = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    walked = ""
    parts = _parts(path)
    try:
        for part in parts:
            walked = f"{walked}/{part}"
            try:
                step = open_in_root(root, walked, os.O_PATH | os.O_DIRECTORY)
            except SyscallError as error:
                if error.errno != errno.ENOENT:
                    raise
                _mkdir(part, mode, at, walked)
                step = openat2(at, part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
            os.close(at)
            at = step
    except BaseException:
        os.close(at)
        raise
    return at


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part and part != "."]
    if ".." in parts:
        raise SyscallError(errno.EINVAL, "mkdir", f'{path} has ".."')
    if len(parts) > _MAX_DEPTH:
        raise SyscallError(errno.ENAMETOOLONG, "mkdir", path)
    return parts


def _mkdir(name: str, mode: int, directory: int, subject: str) -> None:
    try:
        os.mkdir(name, mode, dir_fd=directory)
    except FileExistsError:
        if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise SyscallError(errno.ENOENT, "mkdir", f"{subject} is a dangling link") from None
    except OSError as error:
        raise SyscallError(error.errno or 0, "mkdir", subject) from None


def make_mount_point(root: int, path: str, *, directory: bool) -> int:
    """An O_PATH descriptor of `path` inside `root`, made (empty file or directory, parents too) where absent.

    SyscallError ENOTDIR or EISDIR when it exists and is of the other kind; the caller mounts on the descriptor, so a
    link swapped in afterwards changes nothing.
    """
    if directory:
        return make_directories(root, path)
    try:
        fd = open_in_root(root, path)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    else:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise SyscallError(errno.EISDIR, "open", path)
        return fd
    parent, _, name = path.rstrip("/").rpartition("/")
    at = make_directories(root, parent or "/")
    try:
        made = openat2(at, name, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode=0o644)
        os.close(made)
        return openat2(at, name, os.O_PATH | os.O_NOFOLLOW)
    finally:
        os.close(at)


def read_file_in_root(root: int, path: str, limit: int) -> bytes:
    """The first `limit` bytes of a regular file inside `root`; SyscallError EINVAL when it is no regular file."""
    fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SyscallError(errno.EINVAL, "open", f"{path} is not a regular file")
        chunks = []
        while limit > 0 and (chunk := os.read(fd, min(limit, 65536))):
            chunks.append(chunk)
            limit -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)
