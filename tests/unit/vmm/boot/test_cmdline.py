"""The kernel command line."""

from __future__ import annotations

import pytest

from bireme.errors import Invalid
from bireme.vmm.boot.cmdline import MAX_BYTES, WORDS, compose_cmdline, encode_cmdline


def test_the_callers_words_come_last() -> None:
    line = compose_cmdline("  panic=5   init=/sbin/init ")
    assert line.endswith(" panic=5 init=/sbin/init")
    assert line.startswith(WORDS[0][0])


def test_a_serial_port_is_the_console_or_not_looked_for() -> None:
    assert "console=ttyS0" in compose_cmdline(serial=True)
    assert "8250.nr_uarts=0" in compose_cmdline()


def test_every_word_says_why() -> None:
    assert all(word and why for word, why in WORDS)


def test_the_end_is_a_zero_and_the_limit_counts_bytes() -> None:
    assert encode_cmdline("a" * MAX_BYTES) == b"a" * MAX_BYTES + b"\0"
    with pytest.raises(Invalid, match="2048 bytes"):
        encode_cmdline("ä" * 1024)
