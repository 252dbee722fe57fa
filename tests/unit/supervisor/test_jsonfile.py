"""json-file records: lines, long lines, ends, times, rotation, repair."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.supervisor import jsonfile
from bireme.supervisor.jsonfile import NOTHING, PIECE_BYTES, LogFile, cut, timestamp

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_700_000_000_123_456_789


def records(text: bytes) -> list[dict[str, str]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("at_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (NOW, "2023-11-14T22:13:20.123456789Z"),
        (1_700_000_000_120_000_000, "2023-11-14T22:13:20.12Z"),
        (1_700_000_000_000_000_001, "2023-11-14T22:13:20.000000001Z"),
    ],
)
def test_timestamps_are_rfc3339_nano(at_ns: int, text: str) -> None:
    assert timestamp(at_ns) == text


def test_lines_become_records_and_the_rest_waits() -> None:
    text, tail = cut(NOTHING, b"one\n\ntwo\nthr", "stdout", NOW)
    assert text.endswith(b"\n")
    assert [r["log"] for r in records(text)] == ["one\n", "\n", "two\n"]
    assert records(text)[0] == {"log": "one\n", "stream": "stdout", "time": "2023-11-14T22:13:20.123456789Z"}
    assert tail.data == b"thr"
    text, tail = cut(tail, b"ee\n", "stderr", NOW)
    assert [(r["log"], r["stream"]) for r in records(text)] == [("three\n", "stderr")]
    assert tail == NOTHING


def test_end_flushes_without_a_newline() -> None:
    text, tail = cut(jsonfile.Tail(b"prompt: "), b"", "stdout", NOW, end=True)
    assert [r["log"] for r in records(text)] == ["prompt: "]
    assert tail == NOTHING
    assert cut(NOTHING, b"", "stdout", NOW, end=True) == (b"", NOTHING)


@pytest.mark.parametrize("count", range(5))
def test_text_that_contains_the_marks_of_the_fast_way(count: int) -> None:
    marks = "\x7f\x80\x81\ufdd0"[:count]
    lines = [f"{marks} one\\n\n", "\\\n", f'"{marks}"\n']
    text, tail = cut(NOTHING, "".join(lines).encode(), "stdout", NOW)
    assert [r["log"] for r in records(text)] == lines
    assert tail == NOTHING


def test_awkward_bytes() -> None:
    text, _ = cut(NOTHING, b'q" b\\ t\t r\r\x00\x1b \xff \xe2\x82\xac\n', "stdout", NOW)
    assert [r["log"] for r in records(text)] == ['q" b\\ t\t r\r\x00\x1b \ufffd \u20ac\n']


@pytest.mark.parametrize(
    ("length", "pieces"),
    [
        (PIECE_BYTES - 1, [PIECE_BYTES]),
        (PIECE_BYTES, [PIECE_BYTES, 1]),
        (PIECE_BYTES + 1, [PIECE_BYTES, 2]),
        (3 * PIECE_BYTES + 5, [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, 6]),
    ],
)
def test_long_lines_are_cut_into_pieces(length: int, pieces: list[int]) -> None:
    text, tail = cut(NOTHING, b"a\n" + b"x" * length + b"\nb\n", "stdout", NOW)
    assert [len(r["log"]) for r in records(text)] == [2, *pieces, 2]
    assert tail == NOTHING


def test_pieces_of_one_line_share_the_time_of_the_first() -> None:
    text, tail = cut(NOTHING, b"x" * PIECE_BYTES, "stdout", NOW)
    assert tail.started_ns == NOW
    more, tail = cut(tail, b"x" * PIECE_BYTES + b"y", "stdout", NOW + 5)
    last, tail = cut(tail, b"\nz", "stdout", NOW + 9)
    times = [r["time"] for r in records(text + more + last)]
    assert times == [timestamp(NOW), timestamp(NOW), timestamp(NOW + 9)]
    assert tail == jsonfile.Tail(b"z")


@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"x" * PIECE_BYTES, b"y" * 9000 + b"\n"]), max_size=12),
    st.booleans(),
)
def test_any_cutting_gives_the_stream_back(chunks: list[bytes], end: bool) -> None:
    tail = NOTHING
    text = b""
    for chunk in chunks:
        more, tail = cut(tail, chunk, "stdout", NOW)
        text += more
        assert len(tail.data) < PIECE_BYTES
    if end:
        more, tail = cut(tail, b"", "stdout", NOW, end=True)
        text += more
        assert tail == NOTHING
    whole = b"".join(chunks)
    whole = whole[: len(whole) - len(tail.data)]
    logs = [r["log"] for r in records(text)]
    assert all(len(log) <= PIECE_BYTES for log in logs)
    assert "".join(logs).replace("\ufffd", "") == whole.decode("utf-8", "replace").replace("\ufffd", "")


def test_how_chunks_arrive_does_not_change_the_logs() -> None:
    stream = b"".join(b"line %d\n" % n + b"z" * (n * 700) for n in range(60))
    whole, rest = cut(NOTHING, stream, "stdout", NOW)
    tail = NOTHING
    text = b""
    for at in range(0, len(stream), 333):
        more, tail = cut(tail, stream[at : at + 333], "stdout", NOW)
        text += more
    assert [r["log"] for r in records(text)] == [r["log"] for r in records(whole)]
    assert tail.data == rest.data


def open_log(directory: Path, size: int = 0, files: int = 1) -> LogFile:
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return LogFile(fd, "log", size, files)


def test_a_torn_end_is_cut_off_at_open(tmp_path: Path) -> None:
    whole = b'{"log":"' + b"a" * 100_000 + b'"}\n'
    for torn in (b"", b'{"lo', b'{"log":"' + b"b" * 200_000):
        (tmp_path / "log").write_bytes(whole + torn)
        log = open_log(tmp_path)
        assert log.size == len(whole)
        log.write(b"{}\n")
        log.close()
        assert (tmp_path / "log").read_bytes() == whole + b"{}\n"


def test_rotation_keeps_max_files(tmp_path: Path) -> None:
    log = open_log(tmp_path, size=10, files=3)
    for letter in b"abcdef":
        log.rotate_if_full()
        log.write(bytes([letter]) * 9 + b"\n")
    log.close()
    found = {path.name: path.read_bytes()[:1] for path in tmp_path.iterdir()}
    assert found == {"log": b"f", "log.1": b"e", "log.2": b"d"}


def test_one_file_is_truncated(tmp_path: Path) -> None:
    log = open_log(tmp_path, size=10, files=1)
    for letter in b"abc":
        log.rotate_if_full()
        log.write(bytes([letter]) * 9 + b"\n")
    log.close()
    assert [(path.name, path.read_bytes()[:1]) for path in tmp_path.iterdir()] == [("log", b"c")]


def test_a_link_in_the_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"Too many levels|symbolic"):
        open_log(tmp_path)
