"""A device's place in the machine, and what a device offers to get one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import mmap


class Slot(NamedTuple):
    """Where a virtio-mmio device sits: its window, its interrupt line with the eventfd that pulses it, and one eventfd
    per queue that the guest's notification signals."""

    number: int
    name: str
    base: int
    gsi: int
    irq: int
    kicks: tuple[int, ...]


class MmioSlot(Protocol):
    """A register file that wants a virtio-mmio window. `attach` gets the slot before any process is forked."""

    @property
    def name(self) -> str: ...

    @property
    def queue_count(self) -> int: ...

    @property
    def page(self) -> mmap.mmap | None:
        """The registers as they read, kept right by `write`: the guest then reads them without an exit."""
        ...

    @property
    def absorbed(self) -> tuple[tuple[int, int, int], ...]:
        """Writes (offset, size, value) that need nobody's attention: KVM swallows them."""
        ...

    def attach(self, slot: Slot) -> None: ...

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...
