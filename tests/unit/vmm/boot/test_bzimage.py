"""bzImages: the header's fields, and every way in which a file is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.errors import BiremeError, Invalid, Unsupported
from bireme.vmm import layout
from bireme.vmm.boot.bzimage import is_bzimage, parse_bzimage
from tests.support.kernelfile import bzimage, opened

CODE = bytes(range(256)) * 8


def test_what_the_header_says() -> None:
    with opened(bzimage(CODE, pref_address=0x1000000, init_size=0x300000, cmdline_size=1000)) as file:
        kernel = parse_bzimage(file)
        assert file.read(kernel.protected_offset, kernel.protected_size) == CODE
    assert kernel.end == 0x1300000
    assert (kernel.cmdline_limit, kernel.initrd_limit) == (1000, 1 << 31)
    assert kernel.setup[:1] == b"\x01"
    assert kernel.setup[0x202 - 0x1F1 :][:4] == b"HdrS"


def test_a_kernel_that_cannot_be_moved_works_where_it_is_loaded() -> None:
    with opened(bzimage(CODE, relocatable=0, pref_address=0x1000000, init_size=0x300000)) as file:
        assert parse_bzimage(file).end == layout.KERNEL + 0x300000


def test_zero_set_up_sectors_mean_four() -> None:
    data = bzimage(bytes(2048) + CODE, setup_sects=0, syssize=len(CODE) // 16)
    with opened(data) as file:
        assert parse_bzimage(file).protected_offset == 5 * 512


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 0x20B}, "no 64-bit entry"),
        ({"xloadflags": 0}, "no 64-bit entry"),
    ],
)
def test_kernels_without_a_64_bit_entry(values: dict[str, int], message: str) -> None:
    with opened(bzimage(CODE, **values)) as file, pytest.raises(Unsupported, match=message):
        parse_bzimage(file)


@pytest.mark.parametrize(
    "data",
    [
        bzimage(CODE)[:-1],
        bzimage(CODE)[:0x260],
        bzimage(CODE, syssize=1 << 20),
        bzimage(CODE, payload_offset=2000, payload_length=100),
        bzimage(bytes(256)),
    ],
)
def test_kernels_that_are_cut_off(data: bytes) -> None:
    with opened(data) as file, pytest.raises(Invalid, match="cut off"):
        parse_bzimage(file)


def test_other_files_are_none() -> None:
    assert not is_bzimage(b"")
    with opened(bytes(4096)) as file, pytest.raises(Invalid, match="not a kernel"):
        parse_bzimage(file)


@given(st.binary(max_size=0x70), st.integers(0, 4096))
def test_any_header_is_a_kernel_or_an_error(fields: bytes, size: int) -> None:
    data = bytearray(bzimage(CODE))
    data[0x208 : 0x208 + len(fields)] = fields
    data = data[: max(size, 0x206)]
    with opened(bytes(data)) as file:
        try:
            kernel = parse_bzimage(file)
        except BiremeError:
            return
        assert kernel.protected_offset + kernel.protected_size == len(data)
        assert kernel.end >= layout.KERNEL + kernel.protected_size
