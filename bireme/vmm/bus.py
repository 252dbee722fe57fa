"""A bus: which device answers an address. One for ports, one for memory-mapped registers.

A device sees offsets into its own window and never its address, so the same device can sit anywhere. An access that
no device claims reads as all ones and writes nowhere, as on a PC's bus, and is counted: probing
costs exits.

Look-up is one dictionary by address for small windows (ports) and one by page for windows that begin on a page.
"""

from __future__ import annotations

from typing import Protocol

from bireme.vmm.layout import PAGE

_PAGE_BITS = PAGE.bit_length() - 1
_COUNTED_ADDRESSES = 64


class BusDevice(Protocol):
    """Registers behind a window. Values are unsigned, `size` is 1, 2, 4 or 8 bytes; what comes is the guest's."""

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class Claim:
    """A device's window, and how often the guest came."""

    __slots__ = ("base", "device", "name", "reads", "size", "writes")

    def __init__(self, base: int, size: int, device: BusDevice, name: str) -> None:
        self.base = base
        self.size = size
        self.device = device
        self.name = name
        self.reads = 0
        self.writes = 0

    def describe(self) -> dict[str, object]:
        return {"name": self.name, "base": self.base, "size": self.size, "reads": self.reads, "writes": self.writes}


class Bus:
    """Windows that do not overlap."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.claims: list[Claim] = []
        self.unclaimed_reads = 0
        self.unclaimed_writes = 0
        self.unclaimed: dict[int, int] = {}
        self._by_address: dict[int, Claim] = {}
        self._by_page: dict[int, Claim] = {}

    def add(self, base: int, size: int, device: BusDevice, name: str) -> None:
        """Put a device at base; ValueError when its window is empty or overlaps another: a bug of the caller."""
        if size <= 0 or base < 0:
            raise ValueError(f"{self.name}: {name} has no window")
        for other in self.claims:
            if base < other.base + other.size and other.base < base + size:
                raise ValueError(f"{self.name}: {name} at {base:#x} overlaps {other.name}")
        claim = Claim(base, size, device, name)
        self.claims.append(claim)
        if base % PAGE == 0 and size % PAGE == 0:
            self._by_page.update(dict.fromkeys(range(base >> _PAGE_BITS, (base + size) >> _PAGE_BITS), claim))
        else:
            self._by_address.update(dict.fromkeys(range(base, base + size), claim))

    def find(self, address: int) -> Claim | None:
        return self._by_page.get(address >> _PAGE_BITS) or self._by_address.get(address)

    def read(self, address: int, size: int) -> int:
        """What the guest reads: cut to `size` bytes, all ones where nothing answers."""
        claim = self.find(address)
        if claim is None:
            self.unclaimed_reads += 1
            self._count(address)
            return (1 << 8 * size) - 1
        claim.reads += 1
        return claim.device.read(address - claim.base, size) & ((1 << 8 * size) - 1)

    def write(self, address: int, size: int, value: int) -> None:
        claim = self.find(address)
        if claim is None:
            self.unclaimed_writes += 1
            self._count(address)
            return
        claim.writes += 1
        claim.device.write(address - claim.base, size, value)

    def _count(self, address: int) -> None:
        if address in self.unclaimed or len(self.unclaimed) < _COUNTED_ADDRESSES:
            self.unclaimed[address] = self.unclaimed.get(address, 0) + 1

    def describe(self) -> dict[str, object]:
        """Windows by name, and what went to nobody by address (the first 64 addresses)."""
        return {
            "windows": [claim.describe() for claim in self.claims],
            "unclaimed_reads": self.unclaimed_reads,
            "unclaimed_writes": self.unclaimed_writes,
            "unclaimed": {f"{address:#x}": count for address, count in sorted(self.unclaimed.items())},
        }
