"""TAP devices: a network interface of the host whose wire is a descriptor. Documentation/networking/tuntap.rst.

Each read takes one frame, each write gives one. With a virtio-net header in front of every frame the kernel leaves
checksums and segmentation to whoever is behind the wire: a guest hands over 64 KiB at once, which the host's stack
cuts up, or does not when the receiver is another guest.
"""

from __future__ import annotations

import os
import struct
from enum import IntFlag

from bireme.linux.ioctl import ioctl, ior, iow

TUNSETPERSIST = iow("T", 203, 4)
TUNSETIFF = iow("T", 202, 4)
TUNGETFEATURES = ior("T", 207, 4)
TUNSETOFFLOAD = iow("T", 208, 4)
TUNGETIFF = ior("T", 210, 4)
TUNSETVNETHDRSZ = iow("T", 216, 4)

_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_ifreq = struct.Struct("16sH22x")

PATH = "/dev/net/tun"


class Offload(IntFlag):
    """TUN_F_*: what may arrive unfinished from the host. Segmentation needs CSUM."""

    CSUM = 0x01
    TSO4 = 0x02
    TSO6 = 0x04
    TSO_ECN = 0x08


def open_tap(name: str, header_bytes: int = 12) -> int:
    """The wire (CLOEXEC, non-blocking) of TAP `name`, made if absent and then gone with the descriptor.

    Every frame has a virtio_net_hdr of `header_bytes` (10, or 12 as VIRTIO 1 has it) in front. SyscallError: EPERM
    without CAP_NET_ADMIN, EBUSY when another holds the wire; OSError when there is no /dev/net/tun.
    """
    fd = os.open(PATH, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        request = bytearray(_ifreq.pack(name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        ioctl(fd, TUNSETIFF, request, subject=name)
        ioctl(fd, TUNSETVNETHDRSZ, bytearray(struct.pack("i", header_bytes)), subject=name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def set_offload(fd: int, offload: Offload | int) -> None:
    """What the reader of this wire can take. TUNSETOFFLOAD; SyscallError EINVAL for a mix the kernel does not know."""
    ioctl(fd, TUNSETOFFLOAD, int(offload), subject="TUNSETOFFLOAD")


def name_of(fd: int) -> str:
    """The interface behind a wire. TUNGETIFF."""
    block = bytearray(_ifreq.size)
    ioctl(fd, TUNGETIFF, block, subject="TUNGETIFF")
    name: bytes = _ifreq.unpack(block)[0]
    return name.rstrip(b"\0").decode()
