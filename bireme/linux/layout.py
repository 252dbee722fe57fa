"""C structs declared once, packed and unpacked by name.

    kvm_segment = Layout("kvm_segment", "Q base; I limit; H selector; B type present dpl db s l g avl unusable padding")

Each part is a format letter of the struct module (with a count for arrays of bytes, as in "12s pad") and the names of
the members it goes to. Alignment and the padding at the end are C's for this machine (`native`), or none (`packed`).
"""

from __future__ import annotations

import struct
from typing import Any


class Layout:
    """One struct: `size` and `alignment` in bytes, `names` in order."""

    def __init__(self, name: str, members: str, *, packed: bool = False) -> None:
        self.name = name
        self.names: tuple[str, ...] = ()
        letters: list[str] = []
        for part in members.split(";"):
            letter, *names = part.split()
            self.names += tuple(names)
            letters += [letter] * len(names)
        order = "=" if packed else "@"
        self.alignment = 1 if packed else max(_alignment(letter) for letter in letters)
        self._offsets = {n: _offset(order, letters, at) for at, n in enumerate(self.names)}
        self._empty: dict[str, Any] = {
            name: b"" if letter.endswith("s") else 0 for name, letter in zip(self.names, letters, strict=True)
        }
        bare = struct.calcsize(order + "".join(letters))
        self._struct = struct.Struct(f"{order}{''.join(letters)}{-bare % self.alignment}x")
        self.size = self._struct.size

    def pack(self, **values: Any) -> bytes:
        """The bytes; members not given are zero. KeyError for a name that is no member."""
        return self._struct.pack(*self._row(values))

    def pack_into(self, buffer: Any, offset: int = 0, **values: Any) -> None:
        """Write the whole struct; members not given become zero."""
        self._struct.pack_into(buffer, offset, *self._row(values))

    def unpack(self, buffer: Any, offset: int = 0) -> dict[str, Any]:
        """The members by name."""
        return dict(zip(self.names, self._struct.unpack_from(buffer, offset), strict=True))

    def offset(self, name: str) -> int:
        """Where a member starts (offsetof)."""
        return self._offsets[name]

    def _row(self, values: dict[str, Any]) -> list[Any]:
        unknown = values.keys() - self._offsets.keys()
        if unknown:
            raise KeyError(f"{self.name} has no {', '.join(sorted(unknown))}")
        return [values.get(name, empty) for name, empty in self._empty.items()]


def _alignment(letter: str) -> int:
    code = letter[-1]
    return struct.calcsize(f"@c{code}") - struct.calcsize(f"@{code}")


def _offset(order: str, letters: list[str], at: int) -> int:
    return struct.calcsize(order + "".join(letters[: at + 1])) - struct.calcsize(order + letters[at])
