"""The agent as the last archive of a machine's initramfs: one file, /init, made once for all machines.

The kernel unpacks archives one after the other (Linux, driver-api/early-userspace/buffer-format); the first one, with
the modules, comes with the kernel.
"""

from __future__ import annotations

import os

from bireme.errors import Unavailable
from bireme.oci.digest import sha256_hex

_MAGIC = "070701"
_EXECUTABLE = 0o100755
_TRAILER = "TRAILER!!!"


def agent_archive(agent_path: str, directory: str) -> str:
    """The path of the archive that holds `agent_path` as /init, made in `directory` unless it is there.

    Unavailable with the remedy when the agent was not built.
    """
    try:
        with open(agent_path, "rb") as file:
            agent = file.read()
    except FileNotFoundError:
        raise Unavailable("the agent of machines is not built", place=agent_path, hint="run `make -C guest`") from None
    path = f"{directory}/agent-{sha256_hex(agent)[:16]}.cpio"
    if not os.path.exists(path):
        os.makedirs(directory, 0o700, exist_ok=True)
        fresh = f"{path}.{os.getpid()}.new"
        with open(fresh, "wb") as file:
            file.write(pack_archive("init", _EXECUTABLE, agent))
        os.rename(fresh, path)
    return path


def pack_archive(name: str, mode: int, data: bytes) -> bytes:
    """A cpio archive (newc) of one file that belongs to root."""
    return _entry(name, mode, data) + _entry(_TRAILER, 0, b"")


def _entry(name: str, mode: int, data: bytes) -> bytes:
    """inode, mode, uid, gid, nlink, mtime, size, device and rdev (two numbers each), length of the name, checksum."""
    numbers = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = (_MAGIC + "".join(f"{number:08x}" for number in numbers) + name).encode() + b"\0"
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
