"""Making names and contents survive a power cut: fsync of a file or directory, syncfs of everything at once."""

from __future__ import annotations

import os

from bireme.linux.libc import blocking_syscall
from bireme.linux.numbers import number


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(path: str) -> None:
    """Make everything written so far to the file system of `path` durable. syncfs(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        blocking_syscall("syncfs", number("syncfs"), fd, subject=path)
    finally:
        os.close(fd)
