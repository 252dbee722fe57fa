"""Which memory is worth having in advance, and that asking for it takes it."""

from __future__ import annotations

import os
import resource

import pytest

from bireme.linux import process, residency

MAPS = """\
00400000-00420000 r--p 00000000 08:01 1                          /usr/bin/python3.11
00420000-006f0000 r-xp 00020000 08:01 1                          /usr/bin/python3.11
00a00000-00b00000 rw-p 00500000 08:01 1                          /usr/bin/python3.11
01b00000-01e00000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
7f0000100000-7f0000101000 ---p 00000000 00:00 0
7f0000200000-7f0000300000 rw-s 00000000 00:01 9                  /memfd:a name with spaces (deleted)
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                  [stack]
7ffc00030000-7ffc00034000 r--p 00000000 00:00 0                  [vvar]
7ffc00034000-7ffc00036000 r-xp 00000000 00:00 0                  [vdso]
"""


def test_text_is_read_and_what_is_private_and_writable_is_copied() -> None:
    read, write = 22, 23
    assert residency.wanted_ranges(MAPS) == [
        (0x420000, 0x6F0000, read),
        (0xA00000, 0xB00000, write),
        (0x1B00000, 0x1E00000, write),
        (0x7F0000000000, 0x7F0000100000, write),
        (0x7FFC00000000, 0x7FFC00021000, write),
    ]


def test_a_fresh_clone_has_its_pages_afterwards() -> None:
    block = bytearray(1 << 20)
    pid = process.fork()
    if pid == 0:
        if not residency.populate():
            os._exit(2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for at in range(0, len(block), 4096):
            block[at] = 1
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        os._exit(0 if faults < 16 else 1)
    ended = process.wait_pid(pid)
    assert ended is not None
    if ended.code == 2:
        pytest.skip("this kernel has no MADV_POPULATE_WRITE")
    assert ended.code == 0
