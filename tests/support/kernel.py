"""Kernels of a few kilobytes: a bzImage with a vmlinux packed in it, modules with a .modinfo, packages of both."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable, Mapping

from tests.support import tar

RELEASE = "6.1.0-9-test-amd64"


def elf(sections: Mapping[bytes, bytes] = {}, *, load: bytes = b"code", machine: int = 62) -> bytes:
    """An ELF file of 64 bits with one loaded segment and these sections."""
    names = b"\0" + b"".join(name + b"\0" for name in sections) + b".shstrtab\0"
    body, headers, at = load, [bytes(64)], 64 + 56 + len(load)
    for name, data in (*sections.items(), (b".shstrtab", names)):
        where = names.index(b"\0" + name + b"\0") + 1
        headers.append(struct.pack("<IIQQQQIIQQ", where, 1, 0, 0, at, len(data), 0, 0, 1, 0))
        body += data
        at += len(data)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 2, machine, 1, 0x1000000, 64, at, 0, 64, 56, 1, 64, len(headers), len(headers) - 1),
    )
    program = struct.pack("<IIQQQQQQ", 1, 5, 64 + 56, 0x1000000, 0x1000000, len(load), len(load), 4096)
    return header + program + body + b"".join(headers)


VMLINUX = elf(load=b"Linux version 6.1.0-9-test-amd64 (nobody) #1 SMP\0" + bytes(range(256)) * 8)


def bzimage(packed: bytes = b"", release: str = RELEASE) -> bytes:
    """A bzImage of protocol 2.15 around a packed vmlinux (gzip of VMLINUX)."""
    packed = packed or gzip.compress(VMLINUX, mtime=0)
    body = bytes(48) + packed
    body += bytes(-len(body) % 16)
    head = bytearray(1024)
    head[0x1F1] = 1
    struct.pack_into("<I", head, 0x1F4, len(body) // 16)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x20F)
    struct.pack_into("<H", head, 0x20E, 0x300 - 0x200)
    text = f"{release} (nobody) #1 SMP".encode() + b"\0"
    head[0x300 : 0x300 + len(text)] = text
    struct.pack_into("<II", head, 0x248, 48, len(packed))
    return bytes(head) + body


def module(depends: str = "", *, softdep: str = "", release: str = RELEASE) -> bytes:
    entries = [b"license=GPL", b"depends=" + depends.encode(), f"vermagic={release} SMP mod_unload".encode()]
    if softdep:
        entries.append(b"softdep=" + softdep.encode())
    return elf({b".text": b"\x90" * 8, b".modinfo": b"\0".join(entries) + b"\0"})


MODULES: dict[str, bytes] = {
    "kernel/drivers/virtio/virtio.ko": module(),
    "kernel/drivers/virtio/virtio_ring.ko": module(),
    "kernel/drivers/virtio/virtio_mmio.ko": module("virtio,virtio_ring"),
    "kernel/drivers/block/virtio_blk.ko": module("virtio,virtio_ring"),
    "kernel/net/vmw_vsock/vsock.ko": module(),
    "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko": module("virtio,vsock"),
    "kernel/fs/overlayfs/overlay.ko": module(),
    "kernel/fs/erofs/erofs.ko": module("libcrc32c"),
    "kernel/lib/libcrc32c.ko": module(softdep="pre: crc32c"),
    "kernel/crypto/crc32c_generic.ko": module(),
    "kernel/drivers/net/virtio_net.ko": module("virtio,net-failover"),
    "kernel/drivers/net/net_failover.ko": module(),
    "kernel/drivers/char/virtio_console.ko": module("virtio"),
    "kernel/drivers/char/hw_random/virtio-rng.ko": module("virtio"),
    "kernel/sound/snd.ko": module(),
}
BUILTIN = "kernel/fs/ext4/ext4.ko\nkernel/fs/jbd2/jbd2.ko\n"
CONFIG = "CONFIG_PVH=y\nCONFIG_EXT4_FS=y\nCONFIG_EROFS_FS=m\n# CONFIG_ACPI is not set\n"
ORDER = (
    *("virtio", "virtio_ring", "virtio_mmio", "virtio_blk", "vsock", "vmw_vsock_virtio_transport", "overlay"),
    *("crc32c_generic", "libcrc32c", "erofs", "net_failover", "virtio_net", "virtio_console", "virtio_rng"),
)
"""What of MODULES is loaded, and when."""


def ar(members: Iterable[tuple[bytes, bytes]]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        head = b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"100644", len(data))
        out += head + data + b"\n" * (len(data) % 2)
    return out


def package(
    image: bytes = b"", modules: Mapping[str, bytes] = MODULES, builtin: str = BUILTIN, prefix: str = "./"
) -> bytes:
    """A .deb with the kernel, its configuration and modules."""
    image = image or bzimage()
    tree = f"{prefix}lib/modules/{RELEASE}"
    files = [
        tar.file(f"./boot/vmlinuz-{RELEASE}".encode(), image),
        tar.file(f"./boot/config-{RELEASE}".encode(), CONFIG.encode()),
        *(tar.file(f"{tree}/{path}".encode(), data) for path, data in modules.items()),
        tar.file(f"{tree}/modules.builtin".encode(), builtin.encode()),
    ]
    control = tar.archive(tar.file(b"./control", b"Package: linux-image-test\nVersion: 6.1-9\nDescription: x\n more\n"))
    return ar(
        [
            (b"debian-binary", b"2.0\n"),
            (b"control.tar.gz", gzip.compress(control)),
            (b"data.tar.gz", gzip.compress(tar.archive(*files))),
        ]
    )


def upload(image: bytes = b"", modules: Mapping[str, bytes] = MODULES, builtin: str = BUILTIN) -> bytes:
    """The archive that the command line sends for a vmlinuz and a directory of modules."""
    return tar.archive(
        tar.file(b"vmlinuz", image or bzimage()),
        *(tar.file(f"modules/{path}".encode(), data) for path, data in modules.items()),
        tar.file(b"modules/modules.builtin", builtin.encode()),
    )


def read_cpio(data: bytes) -> dict[str, bytes]:
    """Names and contents of a newc archive, in order."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        at += 110 + fields[11]
        at += -at % 4
        if name == "TRAILER!!!":
            return found
        found[name] = data[at : at + fields[6]]
        at += fields[6]
        at += -at % 4
