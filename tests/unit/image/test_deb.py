from __future__ import annotations

import gzip

import pytest

from bireme.errors import Invalid
from bireme.image import deb
from tests.support import kernel, tar

CONTROL = b"Package: x\nVersion: 1:2-3\nDescription: words\n Package: not this\n"
ARCHIVE = kernel.ar([(b"debian-binary", b"2.0\n"), (b"odd/", b"abc"), (b"last", b"abcd")])


def byte_by_byte(data: bytes) -> deb.Read:
    read = deb.reader_of(data)
    return lambda count: read(min(count, 1))


@pytest.mark.parametrize("make", [deb.reader_of, byte_by_byte])
def test_members(make: type[deb.reader_of]) -> None:  # type: ignore[valid-type]
    found = []
    for member in deb.iter_members(make(ARCHIVE)):
        data = b""
        while part := member.read(2):
            data += part
        found.append((member.name, data))
    assert found == [("debian-binary", b"2.0\n"), ("odd", b"abc"), ("last", b"abcd")]


def test_members_that_nobody_reads_are_skipped() -> None:
    assert [member.name for member in deb.iter_members(deb.reader_of(ARCHIVE))] == ["debian-binary", "odd", "last"]


def test_control_fields() -> None:
    data = gzip.compress(tar.archive(tar.file(b"./md5sums", b"x"), tar.file(b"./control", CONTROL)))
    assert deb.read_control(deb.reader_of(data)) == {"Package": "x", "Version": "1:2-3", "Description": "words"}


def test_every_truncation_is_told() -> None:
    ends = {8, 8 + 60 + 4, 8 + 60 + 4 + 60 + 3, 8 + 60 + 4 + 60 + 4, len(ARCHIVE)}
    for size in set(range(len(ARCHIVE))) - ends:
        with pytest.raises(Invalid):
            list(deb.iter_members(deb.reader_of(ARCHIVE[:size])))
