"""What only a virtual machine can have: a kernel of its own and a disk of a given size.

Docker has no word for a kernel: it is the annotation io.bireme.kernel. The disk is docker's --storage-opt size=10G.
"""

from __future__ import annotations

from bireme.api.docker.bodies import HostConfig
from bireme.api.docker.sizes import parse_size
from bireme.errors import Invalid, Unsupported
from bireme.instance.spec import Isolation
from bireme.storage.disks import check_size

KERNEL = "io.bireme.kernel"
SIZE = "size"
_KERNEL_MAX = 128


def kernel_of(host: HostConfig, isolation: Isolation) -> str:
    """The kernel asked for, "" for the default. Invalid where there is no kernel to choose."""
    kernel = host.Annotations.get(KERNEL, "")
    if kernel and isolation != "microvm":
        raise Invalid(f"a kernel cannot be chosen with isolation {isolation}", subject=KERNEL, hint="microvm has one")
    if len(kernel) > _KERNEL_MAX:
        raise Invalid(f"no such kernel: {kernel[:_KERNEL_MAX]}...", subject=KERNEL)
    return kernel


def disk_size_of(host: HostConfig, isolation: Isolation) -> int:
    """Bytes of the writable disk, whole MiB, 0 for the default. Unsupported where the root is no disk."""
    if not host.StorageOpt:
        return 0
    names = ", ".join(host.StorageOpt)
    if isolation != "microvm":
        raise Unsupported(f"storage options are not supported: {names}", hint="size limits the disk of a microvm")
    if set(host.StorageOpt) != {SIZE}:
        raise Invalid(f"unknown storage option: {names}", subject=names, hint="size=10G is known")
    return check_size(parse_size(host.StorageOpt[SIZE]))
