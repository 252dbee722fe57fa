"""Debug exit: a guest ends its machine with a number of its own, as with QEMU's isa-debug-exit. For tests.

| offset | width | meaning |
|---|---|---|
| 0 | 1, 2 or 4 | writing n ends the machine with code n |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 4


class DebugExit:
    """`end(kind, detail, code)` is told of the number."""

    def __init__(self, end: Callable[[str, str, int], None]) -> None:
        self._end = end

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self._end("debug-exit", f"code {value}", value)
