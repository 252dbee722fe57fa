"""Tables, sizes, times, ports, detach keys."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.cli.errors import BadValue, CommandFailed
from bireme.cli.help import wrap
from bireme.cli.listing import Listing, align
from bireme.cli.output import write_all
from bireme.cli.terminal import DetachFilter, parse_detach_keys
from bireme.cli.units import ago, binary_size, go_time, human_duration, human_size, parse_time
from bireme.cli.verbs.containers import format_ports
from bireme.cli.verbs.logs import moment


@pytest.mark.parametrize(
    ("size", "digits", "text"),
    [
        (0, 3, "0B"),
        (999, 3, "999B"),
        (1000, 3, "1kB"),
        (1234567, 3, "1.23MB"),
        (187654321, 4, "187.7MB"),
        (999999, 3, "1e+03kB"),
    ],
)
def test_sizes(size: int, digits: int, text: str) -> None:
    assert human_size(size, digits) == text


def test_binary_sizes() -> None:
    assert [binary_size(size) for size in (0, 1023, 1024, 12345678, 1 << 40)] == [
        "0B",
        "1023B",
        "1KiB",
        "11.77MiB",
        "1TiB",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5399, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (59 * 86400, "8 weeks"),
        (60 * 86400, "2 months"),
        (729 * 86400, "24 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text
    assert ago(1000, 1000 + seconds) == f"{text} ago"


def test_times() -> None:
    assert parse_time("2024-01-02T03:04:05Z") == 1704164645
    assert parse_time("2024-01-02T03:04:05.5Z") == 1704164645.5
    assert parse_time("2024-01-02T03:04:05+02:00") == 1704164645 - 7200
    assert parse_time("2024-01-02T03:04:05.25-01:30") == 1704164645.25 + 5400
    assert parse_time("0001-01-01T00:00:00Z") == 0
    assert parse_time("rubbish") == 0
    assert go_time("2024-01-02T03:04:05.123000000Z") == "2024-01-02 03:04:05.123 +0000 UTC"
    assert go_time("2024-01-02T03:04:05+02:00") == "2024-01-02 03:04:05 +0200 +0200"
    assert ago(0) == ""


def test_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert moment("") == ""
    assert moment("1700000000") == "1700000000"
    assert moment("1700000000.5") == "1700000000.5"
    assert moment("2024-01-02T03:04:05Z") == "1704164645"
    assert moment("2024-01-02T03:04:05.123456789Z") == "1704164645.123456789"
    assert moment("2024-01-02T03:04:05.5+02:00") == "1704157445.500000000"
    assert moment("2024-01-02T03:04") == "1704164640"
    assert moment("2024-01-02") == "1704153600"
    assert abs(float(moment("10m")) - (time.time() - 600)) < 60
    for text in ("soon", "2024-13-02x", "2024-01-02T03:04:05.x"):
        with pytest.raises(CommandFailed):
            moment(text)
    monkeypatch.undo()
    time.tzset()


def test_columns() -> None:
    assert align(["A\tBB\tC", "1234567890123\t2\t3"]) == ["A               BB        C", "1234567890123   2         3"]
    assert align(["a\tb"], min_width=20) == ["a                   b"]
    assert align([]) == []
    assert align(["long cell here\tx", "alone", "a\tb"]) == ["long cell here   x", "alone", "a         b"]


def test_listing_forms() -> None:
    listing = Listing({"ID": ("THE ID", lambda v: v["i"]), "N": ("N", lambda v: f"<{v['n']}>")}, ["N", "ID"])
    rows = [{"i": "x", "n": 1}]
    assert list(listing.lines(rows)) == ["N         THE ID", "<1>       x"]
    assert list(listing.lines(rows, "table")) == ["N         THE ID", "<1>       x"]
    assert list(listing.lines(rows, "json")) == ['{"ID":"x","N":"\\u003c1\\u003e"}']
    assert list(listing.lines(rows, "{{.ID}}\\t{{.N}}")) == ["x\t<1>"]
    assert list(listing.lines(rows, "table {{.ID}}\t{{.N}}")) == ["THE ID    N", "x         <1>"]


def test_ports() -> None:
    def port(inside: int, outside: int = 0, ip: str = "", kind: str = "tcp") -> dict[str, object]:
        return {"PrivatePort": inside, "Type": kind} | ({"PublicPort": outside, "IP": ip} if ip else {})

    assert format_ports([]) == ""
    assert format_ports([port(443), port(80, 8080, "0.0.0.0"), port(80, 8080, "::")]) == (
        "443/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
    )
    assert format_ports([port(9, 9, "0.0.0.0"), port(8, 8, "0.0.0.0"), port(8, 8, "0.0.0.0", "udp")]) == (
        "0.0.0.0:8-9->8-9/tcp, 0.0.0.0:8->8/udp"
    )
    assert format_ports([port(1), port(2), port(4)]) == "1-2/tcp, 4/tcp"


def test_wrapping() -> None:
    assert wrap(10, 60, "short") == "short"
    wrapped = wrap(10, 60, "word " * 20)
    assert all(len(line.lstrip()) <= 50 for line in wrapped.split("\n"))
    assert wrap(70, 80, "in a block of its own").startswith("\n" + " " * 16)
    assert wrap(4, 60, "one\ntwo") == "one\n    two"


def test_detach_keys() -> None:
    assert parse_detach_keys("") == b"\x10\x11"
    assert parse_detach_keys("a,ctrl-@,ctrl-Z,ctrl-_") == b"a\x00\x1a\x1f"
    for text in ("foo", "ctrl-", "ctrl-1", "é", "a,,b"):
        with pytest.raises(BadValue):
            parse_detach_keys(text)


@pytest.mark.parametrize(
    ("typed", "passed", "detached"),
    [
        (b"abc", b"abc", False),
        (b"ab\x10\x11rest", b"ab", True),
        (b"\x10x", b"\x10x", False),
        (b"\x10\x10\x11", b"\x10", True),
        (b"\x10", b"", False),
        (b"\x11\x10x\x10\x11", b"\x11\x10x", True),
    ],
)
def test_detach_filter(typed: bytes, passed: bytes, detached: bool) -> None:
    assert DetachFilter(b"\x10\x11").feed(typed) == (passed, detached)
    piecewise, out, done = DetachFilter(b"\x10\x11"), b"", False
    for index in range(len(typed)):
        piece, done = piecewise.feed(typed[index : index + 1])
        out += piece
        if done:
            break
    assert (out, done) == (passed, detached)


@given(st.binary(max_size=40))
def test_nothing_typed_is_lost(typed: bytes) -> None:
    keys = b"ab"
    if keys in typed:
        return
    watcher = DetachFilter(keys)
    passed, detached = watcher.feed(typed)
    assert not detached
    assert passed == (typed[:-1] if typed.endswith(b"a") else typed)


def test_writing_to_a_full_non_blocking_pipe() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data, received = os.urandom(500_000), bytearray()

    def drain() -> None:
        while piece := os.read(reader, 10_000):
            received.extend(piece)

    thread = threading.Thread(target=drain)
    thread.start()
    write_all(writer, data)
    os.close(writer)
    thread.join(30)
    os.close(reader)
    assert bytes(received) == data
