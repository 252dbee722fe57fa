"""Descriptors: passing them over sockets, sealed memory, pipes, closing ranges."""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import socket

from bireme.linux.libc import SyscallError, syscall
from bireme.linux.numbers import number, optional_number

_CLOSE_RANGE = number("close_range")
_TEE = optional_number("tee")
_CLOSE_RANGE_CLOEXEC = 4
_LAST = 0xFFFFFFFF

_SOL_SOCKET, _SCM_RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_CUT_OFF = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
"""Plain numbers: each operation on an enum is a dozen calls."""

MAX_FDS = 253
"""The kernel's SCM_MAX_FD: descriptors in one message."""

_RECEIVE_BYTES = 125_000
"""More than any message of ours. From 128 KiB on malloc(3) would map and unmap memory for each."""

_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032
_SEALS = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, SHRINK, GROW, WRITE."""


def close_range_cloexec(first: int, last: int = _LAST) -> None:
    """Every descriptor from `first` on closes at exec. close_range(2) with CLOSE_RANGE_CLOEXEC."""
    syscall("close_range", _CLOSE_RANGE, first, last, _CLOSE_RANGE_CLOEXEC)


def close_range(first: int, last: int = _LAST) -> None:
    """Close every descriptor from `first` to `last`. close_range(2)."""
    syscall("close_range", _CLOSE_RANGE, first, last, 0)


def close_all_but(keep: list[int], first: int = 3) -> None:
    """Close everything from `first` on except `keep`: what a helper does with its parent's descriptors."""
    at = first
    for fd in sorted(set(keep)):
        if fd < first:
            continue
        if fd > at:
            close_range(at, fd - 1)
        at = fd + 1
    close_range(at)


def close_quietly(*fds: int) -> None:
    """Close descriptors; -1 and already closed ones are skipped."""
    for fd in fds:
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                continue


def sealed_memfd(name: str, data: bytes) -> int:
    """A memfd (CLOEXEC) that holds `data`, at offset 0, and can never change. memfd_create(2)."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def seal_size(fd: int) -> None:
    """A memfd (made with MFD_ALLOW_SEALING) can be written but neither grow nor shrink any more. F_ADD_SEALS."""
    fcntl.fcntl(fd, _F_ADD_SEALS, 0x1 | 0x2 | 0x4)


def read_sealed(fd: int, limit: int) -> bytes:
    """The contents of a sealed memfd of at most `limit` bytes; ValueError when it is larger or not sealed."""
    if fcntl.fcntl(fd, _F_GET_SEALS) & _SEALS != _SEALS:
        raise ValueError("memfd is not sealed")
    size = os.fstat(fd).st_size
    if size > limit:
        raise ValueError(f"memfd of {size} bytes, at most {limit} allowed")
    if not size:
        return b""
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ) as view:
        return view[:]


def send_fds(sock: socket.socket, data: bytes, fds: list[int] | tuple[int, ...] = ()) -> int:
    """One message with descriptors (SCM_RIGHTS, unix(7)); the caller still owns them. Data must not be empty."""
    if not fds:
        return sock.send(data)
    return sock.sendmsg([data], [(_SOL_SOCKET, _SCM_RIGHTS, array.array("i", fds))])


def recv_fds(sock: socket.socket, size: int = _RECEIVE_BYTES, max_fds: int = MAX_FDS) -> tuple[bytes, list[int]]:
    """One message and its descriptors (CLOEXEC); (b"", []) at the end of the stream.

    SyscallError EMSGSIZE when either was cut off: everything received with it is closed.
    """
    data, ancillary, flags, _ = sock.recvmsg(size, socket.CMSG_SPACE(max_fds * 4), _CLOEXEC)
    fds: list[int] = []
    for level, kind, content in ancillary:
        if level == _SOL_SOCKET and kind == _SCM_RIGHTS:
            part = array.array("i")
            part.frombytes(content[: len(content) - len(content) % part.itemsize])
            fds.extend(part)
    if flags & _CUT_OFF:
        close_quietly(*fds)
        raise SyscallError(errno.EMSGSIZE, "recvmsg", "message cut off")
    return data, fds


def seqpacket_pair(send_buffer_bytes: int = 0) -> tuple[socket.socket, socket.socket]:
    """Two connected SOCK_SEQPACKET unix sockets (CLOEXEC). One message may be nearly `send_buffer_bytes` long."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    if send_buffer_bytes:
        for sock in pair:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    return pair


def seqpacket_listener(path: str, backlog: int) -> socket.socket:
    """A listening SOCK_SEQPACKET socket that only its owner may open; a stale one in its place is removed.

    The mask is the process's: nobody else may make files meanwhile.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(backlog)
    return listener


def tee(source: int, target: int, count: int, flags: int = 0x2) -> int:
    """Duplicate bytes of one pipe into another without consuming them; the number copied. tee(2).

    `flags` defaults to SPLICE_F_NONBLOCK: BlockingIOError-like SyscallError EAGAIN when nothing can move.
    """
    return syscall("tee", _TEE, source, target, count, flags)


def set_pipe_size(fd: int, size_bytes: int) -> int:
    """Capacity of a pipe, rounded up by the kernel; F_SETPIPE_SZ. EPERM above /proc/sys/fs/pipe-max-size."""
    return fcntl.fcntl(fd, _F_SETPIPE_SZ, size_bytes)


def pipe_size(fd: int) -> int:
    """Capacity of a pipe in bytes; F_GETPIPE_SZ."""
    return fcntl.fcntl(fd, _F_GETPIPE_SZ)


def readable_bytes(fd: int) -> int:
    """Bytes waiting in a pipe, socket or terminal; FIONREAD."""
    block = bytearray(4)
    fcntl.ioctl(fd, 0x541B, block, True)
    return int.from_bytes(block, "little")


def duplicate(fd: int, least: int = 3) -> int:
    """A CLOEXEC duplicate numbered `least` or higher; F_DUPFD_CLOEXEC."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)


def move_above(fd: int, least: int = 3) -> int:
    """`fd` itself, or a duplicate numbered `least` or higher with the original closed."""
    if fd >= least:
        return fd
    moved = duplicate(fd, least)
    os.close(fd)
    return moved


def lock_file(fd: int, *, block: bool = False) -> bool:
    """Take the exclusive flock(2) of an open file; False when another holds it and `block` is false."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
