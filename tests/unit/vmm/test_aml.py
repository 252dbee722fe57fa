"""The AML encoder, held against bytes of the specification's encodings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.vmm import aml


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0x10000, "0c00000100"),
        (0xFFFFFFFF, "0cffffffff"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integers(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_integers_that_are_none(value: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        aml.integer(value)


@pytest.mark.parametrize(("text", "encoded"), [("_HID", b"_HID"), ("V0", b"V0__"), ("\\_S5", b"\\_S5_")])
def test_names(text: str, encoded: bytes) -> None:
    assert aml.name_segment(text) == encoded


@pytest.mark.parametrize("text", ["", "lower", "TOOLONG", "1ABC", "A.B"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="name"):
        aml.name_segment(text)


def decode_length(data: bytes) -> tuple[int, int]:
    """(length with itself, bytes of the length), as an interpreter reads it."""
    more = data[0] >> 6
    if more == 0:
        return data[0] & 0x3F, 1
    return data[0] & 0xF | int.from_bytes(data[1 : 1 + more], "little") << 4, 1 + more


@given(st.sampled_from([0, 1, 61, 62, 63, 64, 4092, 4093, 4094, 4095, 1 << 20]))
def test_package_lengths_count_themselves(size: int) -> None:
    encoded = aml.package_length(bytes(size))
    total, head = decode_length(encoded)
    assert total == len(encoded) == head + size


def test_identifiers_are_compressed() -> None:
    assert aml.eisa_id("PNP0501").hex() == "0c41d00501"


def test_resources() -> None:
    assert aml.memory32_fixed(0xD0000000, 0x1000).hex() == "86090001000000d000100000"
    assert aml.interrupt(5).hex() == "890600030105000000"
    assert aml.interrupt(5, shared=True).hex() == "8906000b0105000000"
    assert aml.port(0x3F8, 8).hex() == "4701f803f8030108"
    assert aml.irq_no_flags(4).hex() == "221000"
    assert aml.resources(b"abc").hex() == "11080a056162637900"
