from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bireme.errors import Invalid
from bireme.storage.tar import EXTENTS_MAX, Entry, Kind, TarReader
from tests.support import tar


def read_all(data: bytes, chunk: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    reader = TarReader(tar.chunks(data, chunk))
    return [(entry, b"".join(reader.data())) for entry in reader]


def read_one(*members: bytes) -> tuple[Entry, bytes]:
    ((entry, data),) = read_all(tar.archive(*members))
    return entry, data


EVERYTHING = tar.archive(
    tar.directory(b"d/"),
    tar.file(b"d/f", b"hello", uid=tar.octal(7, 8), gid=tar.octal(8, 8), mtime=1234),
    tar.symlink(b"s", b"d/f"),
    tar.link(b"h", b"d/f"),
    tar.header(b"c", b"3", major=1, minor=3),
    tar.header(b"b", b"4", major=8, minor=1),
    tar.header(b"p", b"6"),
    tar.long_name(b"n" * 300),
    tar.file(b"short", b"x" * 1000),
    tar.pax([(b"path", "päx".encode()), (b"mtime", b"1.5"), (b"SCHILY.xattr.user.a", b"v\n=")]),
    tar.file(b"short", b"y"),
)


def test_every_kind() -> None:
    entries = read_all(EVERYTHING)
    assert [(e.name, e.kind) for e, _ in entries] == [
        (b"d/", Kind.DIRECTORY),
        (b"d/f", Kind.FILE),
        (b"s", Kind.SYMLINK),
        (b"h", Kind.LINK),
        (b"c", Kind.CHARACTER),
        (b"b", Kind.BLOCK),
        (b"p", Kind.FIFO),
        (b"n" * 300, Kind.FILE),
        ("päx".encode(), Kind.FILE),
    ]
    _, (file, data), (link, _), (hard, _), (char, _), *_, (last, _) = entries
    assert (file.uid, file.gid, file.size, file.mtime_ns, data) == (7, 8, 5, 1234 * 10**9, b"hello")
    assert link.target == hard.target == b"d/f"
    assert char.device == (1, 3)
    assert (last.mtime_ns, last.xattrs) == (1_500_000_000, {b"user.a": b"v\n="})


@pytest.mark.parametrize("chunk", [1, 7, 511, 512, 513])
def test_chunks_of_any_size_say_the_same(chunk: int) -> None:
    assert read_all(EVERYTHING, chunk) == read_all(EVERYTHING)


def test_unread_data_is_skipped() -> None:
    reader = TarReader(tar.chunks(EVERYTHING, 100))
    assert len(list(reader)) == reader.entries == 9


def test_numbers() -> None:
    entry, _ = read_one(tar.header(b"f", uid=tar.base256(3_000_000_000, 8), mtime=tar.base256(-5, 12)))
    assert (entry.uid, entry.mtime_ns) == (3_000_000_000, -5 * 10**9)
    entry, _ = read_one(tar.header(b"f", mode=b"  755 \0\0", uid=b"        ", gid=b"7       "))
    assert (entry.mode, entry.uid, entry.gid) == (0o755, 0, 7)


def test_ustar_prefix_and_v7() -> None:
    assert read_one(tar.header(b"name", prefix=b"some/where"))[0].name == b"some/where/name"
    assert read_one(tar.header(b"name", magic=b"ustar  \0", prefix=b"some/where"))[0].name == b"name"
    assert read_one(tar.header(b"old/", b"\0", magic=bytes(8)))[0].kind is Kind.DIRECTORY


def test_signed_checksum_of_old_programs() -> None:
    block = tar.header(b"\xff" * 10)
    blank = block[:148] + b" " * 8 + block[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in blank)
    assert read_one(tar.header(b"\xff" * 10, checksum=b"%06o\0 " % signed))[0].name == b"\xff" * 10


def test_pax_records() -> None:
    entry, data = read_one(tar.pax([(b"size", b"3"), (b"uid", b"70000"), (b"linkpath", b"no")]), tar.file(b"f", b"abc"))
    assert (entry.uid, data, entry.target) == (70000, b"abc", b"")
    entry, _ = read_one(tar.pax([(b"path", b"a")]), tar.pax([(b"path", b"")]), tar.file(b"f"))
    assert entry.name == b"f"
    entries = read_all(
        tar.archive(tar.pax([(b"uid", b"5")], b"g"), tar.file(b"a"), tar.pax([(b"uid", b"6")]), tar.file(b"b"))
    )
    assert [e.uid for e, _ in entries] == [5, 6]


def test_no_end_blocks_is_an_end() -> None:
    assert len(read_all(tar.file(b"f", b"x"))) == 1
    assert read_all(b"") == []


SPARSE = b"A" * 512 + b"B" * 100
EXTENTS = ((1024, 512), (4096, 100))


def sparse_gnu() -> bytes:
    numbers = b"".join(tar.octal(n, 12) for extent in EXTENTS for n in extent)
    tail = bytes(41) + numbers.ljust(96, b"\0") + b"\0" + tar.octal(5000, 12)
    return tar.header(b"f", b"S", size=len(SPARSE), magic=b"ustar  \0", tail=tail) + tar.padded(SPARSE)


def sparse_gnu_extended() -> bytes:
    first = b"".join(tar.octal(n, 12) for n in (0, 0, 0, 0, 0, 0, 0, 0))
    tail = bytes(41) + first + b"\1" + tar.octal(5000, 12)
    more = b"".join(tar.octal(n, 12) for extent in EXTENTS for n in extent).ljust(504, b"\0") + bytes(8)
    return tar.header(b"f", b"S", size=len(SPARSE), magic=b"ustar  \0", tail=tail) + more + tar.padded(SPARSE)


def sparse_00() -> bytes:
    pairs = [
        (key, b"%d" % n)
        for extent in EXTENTS
        for key, n in zip((b"GNU.sparse.offset", b"GNU.sparse.numbytes"), extent, strict=True)
    ]
    return tar.pax([(b"GNU.sparse.size", b"5000"), (b"GNU.sparse.numblocks", b"2"), *pairs]) + tar.file(b"f", SPARSE)


def sparse_01() -> bytes:
    return tar.pax(
        [
            (b"GNU.sparse.size", b"5000"),
            (b"GNU.sparse.map", b"1024,512,4096,100"),
            (b"GNU.sparse.name", b"f"),
        ]
    ) + tar.file(b"GNUSparseFile.0/f", SPARSE)


def sparse_10() -> bytes:
    lines = tar.padded(b"2\n1024\n512\n4096\n100\n")
    return tar.pax(
        [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.realsize", b"5000"),
            (b"GNU.sparse.name", b"f"),
        ]
    ) + tar.file(b"GNUSparseFile.0/f", lines + SPARSE)


@pytest.mark.parametrize("make", [sparse_gnu, sparse_00, sparse_01, sparse_10])
def test_sparse_dialects(make: object) -> None:
    assert callable(make)
    (entry, data), (after, _) = read_all(tar.archive(make(), tar.file(b"after")))
    assert (entry.name, entry.size, entry.extents, data) == (b"f", 5000, EXTENTS, SPARSE)
    assert after.name == b"after"


def test_sparse_extension_blocks() -> None:
    entry, data = read_one(sparse_gnu_extended())
    assert entry.extents is not None
    assert ([e for e in entry.extents if e[1]], data) == (list(EXTENTS), SPARSE)


@pytest.mark.parametrize(
    "bad",
    [
        [(b"GNU.sparse.map", b"1024,512,1000,100"), (b"GNU.sparse.size", b"5000")],
        [(b"GNU.sparse.map", b"1024,512,4096,101"), (b"GNU.sparse.size", b"5000")],
        [(b"GNU.sparse.map", b"1024,512,4950,100"), (b"GNU.sparse.size", b"5000")],
        [(b"GNU.sparse.map", b"1024,512,4096"), (b"GNU.sparse.size", b"5000")],
        [(b"GNU.sparse.map", b"1024,-512"), (b"GNU.sparse.size", b"5000")],
        [(b"GNU.sparse.map", b"1024,512,4096,100")],
        [(b"GNU.sparse.numbytes", b"512"), (b"GNU.sparse.size", b"5000")],
        [(b"GNU.sparse.offset", b"512"), (b"GNU.sparse.size", b"5000")],
        [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"5000")],
        [(b"GNU.sparse.map", b",".join([b"1"] * 9)), (b"GNU.sparse.size", b"9" * 19)],
    ],
)
def test_lying_sparse_maps_are_refused(bad: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Invalid):
        read_one(tar.pax(bad), tar.file(b"f", SPARSE))


def test_endless_sparse_maps_are_refused() -> None:
    with pytest.raises(Invalid):
        read_one(
            tar.pax([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"5000")]),
            tar.file(b"f", tar.padded(b"%d\n" % (EXTENTS_MAX + 1))),
        )


@pytest.mark.parametrize(
    "data",
    [
        tar.header(b"f", checksum=b"000000\0 "),
        tar.header(b"f", size=10),
        tar.header(b"f")[:100],
        tar.header(b"f", size=b"00000000zz9\0"),
        tar.header(b"f", size=b"00000000888\0"),
        tar.header(b"f", size=tar.base256(-1, 12)),
        tar.header(b"f", size=tar.base256(1 << 70, 12)),
        tar.header(b"f", uid=tar.base256(1 << 40, 8)),
        tar.header(b"f", mtime=tar.base256(1 << 60, 12)),
        tar.header(b"f", b"Z"),
        tar.header(b"f", b"M"),
        tar.header(b""),
        tar.header(b"x", b"x", size=(1 << 20) + 1),
        tar.header(b"x", b"L", size=(1 << 33) - 1),
        tar.header(b"x", b"x", size=100) + b"short",
        tar.pax([(b"path", b"a")]),
        tar.pax([(b"path", b"a")]) * 20 + tar.file(b"f"),
        tar.pax([(b"path", b"a" * 4097)]) + tar.file(b"f"),
        tar.pax([(b"linkpath", b"a" * 4097)]) + tar.symlink(b"f", b"x"),
        tar.pax([(b"size", b"-1")]) + tar.file(b"f"),
        tar.pax([(b"size", b"9" * 30)]) + tar.file(b"f"),
        tar.pax([(b"mtime", b"abc")]) + tar.file(b"f"),
        tar.pax([(b"mtime", b"1" * 60)]) + tar.file(b"f"),
        tar.header(b"x", b"x", size=6) + tar.padded(b"99 a=b"),
        tar.header(b"x", b"x", size=6) + tar.padded(b"6 ab=\n"[:5] + b"x"),
        tar.header(b"x", b"x", size=6) + tar.padded(b"-6 a=b"),
        tar.header(b"x", b"x", size=6) + tar.padded(b"2 a=b\n"),
        tar.archive(tar.file(b"f")) + b"garbage",
        tar.file(b"f") + bytes(512) + tar.file(b"g"),
        tar.header(b"c", b"3", major=5000),
    ],
)
def test_malformed_archives_are_refused(data: bytes) -> None:
    for chunk in (1 << 20, 1):
        with pytest.raises(Invalid):
            read_all(data, chunk)


def test_global_records_are_bounded() -> None:
    with pytest.raises(Invalid, match="global"):
        read_all(b"".join(tar.pax([(b"k%d" % n, b"v" * 30_000)], b"g") + tar.file(b"f") for n in range(5)))


def test_endless_padding_is_read_in_pieces() -> None:
    assert len(read_all(tar.archive(tar.file(b"f")) + bytes(100_000), 4096)) == 1


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_same_as_tarfile(form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as out:
        for name in ("a", "d" * 90 + "/" + "e" * 90, "ünï"):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.mode = 3, 1_700_000_000, 1000, 0o4755
            out.addfile(info, io.BytesIO(b"abc"))
        if form != tarfile.USTAR_FORMAT:
            info = tarfile.TarInfo("long/" * 60 + "x")
            info.type, info.linkname = tarfile.SYMTYPE, "t" * 200
            out.addfile(info)
    buffer.seek(0)
    ours = read_all(buffer.getvalue())
    with tarfile.open(fileobj=buffer) as theirs:
        assert [
            (e.name.rstrip(b"/").decode(), e.mode, e.uid, e.size, e.mtime_ns // 10**9, e.target.decode())
            for e, _ in ours
        ] == [(m.name, m.mode, m.uid, m.size, m.mtime, m.linkname) for m in theirs.getmembers()]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=3000), st.integers(1, 700))
def test_noise_is_refused_or_read(data: bytes, chunk: int) -> None:
    try:
        read_all(data, chunk)
    except Invalid:
        pass


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_are_refused_or_read(data: st.DataObject) -> None:
    """Mutations with the checksum put right again get past the first check."""
    raw = bytearray(tar.archive(EVERYTHING[:-1024], sparse_gnu(), sparse_00(), sparse_01(), sparse_10()))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
        start = at - at % 512
        block = raw[start : start + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            raw[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    try:
        for entry, content in read_all(bytes(raw)):
            assert entry.size >= 0
            assert len(content) <= len(raw)
    except Invalid:
        pass
