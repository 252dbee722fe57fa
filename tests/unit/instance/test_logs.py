"""json-file lines, RFC 3339 times, and finding the tail of a file."""

from __future__ import annotations

import os
import pathlib

import pytest

from bireme.instance.logs import LineSplitter, LogQuery, LogRecord, complete_end, parse_line, parse_time, tail_offset


def test_a_line() -> None:
    line = b'{"log":"a\\u00e9\\n","stream":"stderr","time":"2026-01-02T03:04:05.5Z"}'
    assert parse_line(line) == LogRecord(2, 1767323045_500000000, "aé\n".encode())


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"log":1}', b'{"log":"x","time":"yesterday"}', b"\xff\xfe"])
def test_damaged_lines_are_skipped(line: bytes) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.000000001Z", 1_000_000_001),
        ("1970-01-01T00:00:00.1Z", 100_000_000),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert parse_time(text) == expected


def test_splitter_byte_at_a_time() -> None:
    splitter = LineSplitter()
    lines = []
    for byte in b"one\ntwo\n\nthree":
        lines += splitter.feed(bytes([byte]))
    assert lines == [b"one", b"two", b""]
    assert splitter.feed(b"\n") == [b"three"]


@pytest.mark.parametrize("wanted", [0, 1, 2, 999, 20_000, 29_999, 30_000, 50_000])
def test_tail(tmp_path: pathlib.Path, wanted: int) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"".join(b"line %d\n" % i for i in range(30_000)))
    fd = os.open(file, os.O_RDONLY)
    try:
        data = os.pread(fd, 1 << 20, tail_offset(fd, wanted, file.stat().st_size))
    finally:
        os.close(fd)
    assert data.count(b"\n") == min(wanted, 30_000)


def test_query_bounds() -> None:
    query = LogQuery(stderr=False, since_ns=10)
    assert query.wants(LogRecord(1, 10, b""))
    assert not query.wants(LogRecord(1, 9, b""))
    assert not query.wants(LogRecord(2, 10, b""))


@pytest.mark.parametrize(("text", "end"), [(b"", 0), (b"a", 0), (b"a\n", 2), (b"a\nb", 2), (b"a\n" + b"b" * 70_000, 2)])
def test_half_a_line_is_not_read(tmp_path: pathlib.Path, text: bytes, end: int) -> None:
    file = tmp_path / "log"
    file.write_bytes(text)
    fd = os.open(file, os.O_RDONLY)
    try:
        assert complete_end(fd) == end
    finally:
        os.close(fd)
