"""Interrupt lines: a GSI (global system interrupt) is a pin of the I/O APIC, an irqfd the way to pulse it.

Device processes are forked before the VM exists (a VM belongs to the process that made it), so an eventfd is made first
and given to both; `bind` ties them all to their lines once there is a VM. From then on a device's interrupt costs one
write(2) of eight bytes, and neither our main process nor Python has a part in it.

Lines are edge-triggered, active high: a pulse is remembered by the controller, so there is nothing to take back.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bireme.vmm.layout import GSIS_VIRTIO

if TYPE_CHECKING:
    from bireme.linux.kvm import Vm

SIGNAL = (1).to_bytes(8, "little")
"""What to write to an eventfd."""


def make_eventfd() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def signal(eventfd: int) -> None:
    """Pulse. A full counter means that a pulse is pending already."""
    try:
        os.write(eventfd, SIGNAL)
    except BlockingIOError:
        return


class IrqLines:
    """The lines of one machine: eventfds by GSI. Owns the descriptors."""

    def __init__(self) -> None:
        self._made: list[tuple[int, int]] = []
        self._allocated = 0

    def allocate(self) -> int:
        """A GSI for one more device: its own as long as there are some, then shared in turn."""
        gsi = GSIS_VIRTIO[self._allocated % len(GSIS_VIRTIO)]
        self._allocated += 1
        return gsi

    def irqfd(self, gsi: int) -> int:
        """An eventfd for a line; several may pulse the same one."""
        eventfd = make_eventfd()
        self._made.append((gsi, eventfd))
        return eventfd

    def bind(self, vm: Vm) -> None:
        for gsi, eventfd in self._made:
            vm.irqfd(gsi, eventfd)

    def fds(self) -> list[int]:
        return [eventfd for _, eventfd in self._made]

    def close(self) -> None:
        for _, eventfd in self._made:
            os.close(eventfd)
        self._made.clear()
