"""Named values as bytes: playbook, refusals, and that anything else is Invalid."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.errors import Invalid
from bireme.wire.fields import Field, Table, Value

ROWS = {
    "count": Field(1, Value.NUMBER),
    "name": Field(2, Value.TEXT),
    "token": Field(3, Value.BYTES),
    "child": Field(4, Value.GROUP),
    "words": Field(5, Value.TEXT, many=True),
    "children": Field(6, Value.GROUP, many=True),
}
TABLE = Table(ROWS)
NUMBER = b"\x01\x00\x00\x00\x08\x00\x00\x00" + b"\x07" + bytes(7)


def test_playbook() -> None:
    assert TABLE.pack({"count": 7}) == NUMBER
    assert TABLE.pack({"name": "ab", "token": None}) == b"\x02\x00\x00\x00\x02\x00\x00\x00ab"
    assert TABLE.pack({"child": {"count": 7}}) == b"\x04\x00\x00\x00\x10\x00\x00\x00" + NUMBER


def test_round_trip() -> None:
    fields = {
        "count": -1,
        "name": "é",
        "token": b"\0\xff",
        "child": {"words": ["", "x"]},
        "children": [{"count": 1}, {}],
    }
    assert TABLE.unpack(TABLE.pack(fields)) == fields


def test_bytes_that_are_no_text_come_back_readable() -> None:
    assert TABLE.unpack(TABLE.pack({"name": b"\xe9".decode("utf-8", "surrogateescape")})) == {"name": "\ufffd"}


def test_unknown_tags_are_skipped() -> None:
    assert TABLE.unpack(b"\x63\x00\x00\x00\x01\x00\x00\x00x" + NUMBER) == {"count": 7}


@pytest.mark.parametrize(
    ("fields", "text"),
    [({"name": "a\0b"}, "without NUL"), ({"count": 1 << 63}, "64 bits"), ({"count": "1"}, "64 bits")],
)
def test_values_that_do_not_fit(fields: dict[str, object], text: str) -> None:
    with pytest.raises(Invalid, match=text):
        TABLE.pack(fields)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x01", "head of a field"),
        (NUMBER[:-1], "longer than its message"),
        (NUMBER + NUMBER, "twice"),
        (b"\x01\x00\x00\x00\x01\x00\x00\x00x", "has 1 bytes"),
    ],
)
def test_malformed(data: bytes, text: str) -> None:
    with pytest.raises(Invalid, match=text):
        TABLE.unpack(data)


def test_nesting_is_bounded() -> None:
    data = b""
    for _ in range(8):
        data = b"\x04\x00\x00\x00" + len(data).to_bytes(4, "little") + data
    with pytest.raises(Invalid, match="too deep"):
        TABLE.unpack(data)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_invalid(data: bytes) -> None:
    try:
        TABLE.unpack(data)
    except Invalid:
        return
