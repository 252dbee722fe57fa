"""Named values as bytes that a small C program reads without a parser: type, length, value.

    | tag u16 | zero u16 | length u32 | value |  ... and so on, little-endian

A value is a NUMBER (8 bytes, signed), TEXT (UTF-8 without NUL), BYTES, or a GROUP of fields again. A field given
several times is a list, one left out is None. Names and tags are one flat table for all messages of a protocol, so
decoding needs no schema. Unknown tags are skipped: newer peers may say more.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from bireme.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FIELD = struct.Struct("<HHI")
_NUMBER = struct.Struct("<q")
_MAX_DEPTH = 4


class Value(IntEnum):
    """How a field's value is written."""

    NUMBER = 0
    TEXT = 1
    BYTES = 2
    GROUP = 3


class Field(NamedTuple):
    """One row of a table; `many`: always a list."""

    tag: int
    value: Value
    many: bool = False


class Table:
    """Packs and unpacks what the rows of one protocol name."""

    def __init__(self, rows: Mapping[str, Field]) -> None:
        self._rows = rows
        self._by_tag = {field.tag: (name, field) for name, field in rows.items()}

    def pack(self, fields: Mapping[str, Any]) -> bytes:
        """Values in bytes; None is left out. KeyError for a name without a row, Invalid for a value that does not fit:
        a text with NUL, a number beyond 64 bits."""
        body = bytearray()
        for name, value in fields.items():
            if value is None:
                continue
            field = self._rows[name]
            for one in value if field.many else (value,):
                data = self._pack_value(name, field.value, one)
                body += _FIELD.pack(field.tag, 0, len(data))
                body += data
        return bytes(body)

    def _pack_value(self, name: str, kind: Value, value: Any) -> bytes:
        if kind is Value.NUMBER:
            try:
                return _NUMBER.pack(value)
            except struct.error as error:
                raise Invalid(f"{name} {value!r} is not a number of 64 bits", subject=name) from error
        if kind is Value.TEXT:
            if not isinstance(value, str) or "\0" in value:
                raise Invalid(f"{name} {value!r} is not a string without NUL", subject=name)
            return value.encode("utf-8", "surrogateescape")
        return bytes(value) if kind is Value.BYTES else self.pack(value)

    def unpack(self, data: bytes, depth: int = 0) -> dict[str, Any]:
        """The fields of a body. Invalid when it is cut off, nested too deep, a value has a wrong size, or a field comes
        twice that is no list."""
        if depth > _MAX_DEPTH:
            raise Invalid("fields nested too deep")
        found: dict[str, Any] = {}
        for tag, value in _iter_fields(data):
            known = self._by_tag.get(tag)
            if known is None:
                continue
            name, field = known
            one = self._unpack_value(name, field.value, value, depth)
            if field.many:
                found.setdefault(name, []).append(one)
            elif name in found:
                raise Invalid(f"field {name} comes twice", subject=name)
            else:
                found[name] = one
        return found

    def _unpack_value(self, name: str, kind: Value, value: bytes, depth: int) -> Any:
        if kind is Value.NUMBER:
            if len(value) != _NUMBER.size:
                raise Invalid(f"number {name} has {len(value)} bytes", subject=name)
            return _NUMBER.unpack(value)[0]
        if kind is Value.TEXT:
            return value.decode("utf-8", "replace")
        return value if kind is Value.BYTES else self.unpack(value, depth + 1)


def _iter_fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        start = at + _FIELD.size
        if start > len(data):
            raise Invalid("message ends inside the head of a field")
        tag, _, length = _FIELD.unpack_from(data, at)
        at = start + length
        if at > len(data):
            raise Invalid(f"field {tag} of {length} bytes is longer than its message")
        yield tag, data[start:at]
