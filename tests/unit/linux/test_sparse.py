"""Holes in a real file; what cannot have holes says so."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bireme.linux.libc import SyscallError
from bireme.linux.sparse import punch_hole, zero_range

MIB = 1 << 20


@pytest.mark.parametrize("erase", [punch_hole, zero_range])
def test_a_range_reads_as_zeros_and_the_size_stays(tmp_path: Path, erase: type[object]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * MIB)
    with open(path, "r+b") as file:
        if not erase(file.fileno(), 4096, MIB // 2):  # type: ignore[call-arg]
            pytest.skip("this file system cannot")
    content = path.read_bytes()
    assert len(content) == MIB
    assert content[4096 : 4096 + MIB // 2] == bytes(MIB // 2)
    assert content.count(b"x") == MIB // 2


def test_a_pipe_has_no_holes() -> None:
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        with pytest.raises(SyscallError) as caught:
            punch_hole(theirs, 0, 4096)
        assert caught.value.errno in (errno.ESPIPE, errno.ENODEV)
    finally:
        os.close(ours)
        os.close(theirs)
