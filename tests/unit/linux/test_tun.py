"""Numbers of TAP ioctls, and a real TAP where root can make one (in a network namespace of its own)."""

from __future__ import annotations

import os

import pytest

from bireme.linux import tun
from bireme.linux.libc import SyscallError


def test_numbers_are_the_headers() -> None:
    assert tun.TUNSETIFF == 0x400454CA
    assert tun.TUNSETPERSIST == 0x400454CB
    assert tun.TUNGETFEATURES == 0x800454CF
    assert tun.TUNSETOFFLOAD == 0x400454D0
    assert tun.TUNGETIFF == 0x800454D2
    assert tun.TUNSETVNETHDRSZ == 0x400454D8
    assert tun._ifreq.size == 40


def test_what_is_no_tap_is_refused() -> None:
    with open(os.devnull, "rb") as file, pytest.raises(SyscallError, match="TUNSETOFFLOAD"):
        tun.set_offload(file.fileno(), tun.Offload.CSUM)
