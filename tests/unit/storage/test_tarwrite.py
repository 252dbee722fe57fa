from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bireme.errors import Invalid
from bireme.storage.tar import Kind, TarReader
from bireme.storage.tarwalk import write_tree
from bireme.storage.tarwrite import TarWriter, make_entry
from tests.support import tar

ENTRIES = [
    make_entry(b"d", Kind.DIRECTORY, mode=0o1777),
    make_entry(b"f", size=5, mtime_ns=1_234_567_890_123_456_789, uid=5_000_000_000 % (1 << 32) - 2),
    make_entry(b"p" * 90 + b"/" + b"n" * 90),
    make_entry(b"x" * 300, Kind.SYMLINK, target=b"t" * 200),
    make_entry(b"h", Kind.LINK, target=b"f"),
    make_entry(b"c", Kind.CHARACTER, device=(1, 3)),
    make_entry(b"before", mtime_ns=-1_500_000_000),
    make_entry(b"a", xattrs={b"user.x": b"1\0\n", b"security.capability": b"\xff"}),
    make_entry(b"q", Kind.FIFO),
]


def test_what_is_written_is_read() -> None:
    out = io.BytesIO()
    writer = TarWriter(out.write)
    for entry in ENTRIES:
        writer.add(entry, [b"he", b"llo"] if entry.size else [])
    writer.finish()
    read = list(TarReader(tar.chunks(out.getvalue())))
    assert [entry._replace(name=entry.name.rstrip(b"/")) for entry in read] == ENTRIES
    out.seek(0)
    with tarfile.open(fileobj=out) as theirs:
        assert [member.name.encode() for member in theirs.getmembers()] == [entry.name for entry in ENTRIES]


def test_data_must_be_as_long_as_promised() -> None:
    writer = TarWriter(lambda data: None)
    with pytest.raises(Invalid):
        writer.add(make_entry(b"f", size=5), [b"four"])
    with pytest.raises(Invalid):
        writer.add(make_entry(b"d", Kind.DIRECTORY), [b"x"])


@settings(max_examples=150, deadline=None)
@given(
    st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and not name.endswith(b"/")),
    st.integers(-(1 << 39), 1 << 39),
    st.integers(0, (1 << 32) - 2),
    st.integers(0, 0o7777),
    st.dictionaries(st.sampled_from([b"user.a", b"user.b"]), st.binary(max_size=30)),
)
def test_round_trip(name: bytes, seconds: int, uid: int, mode: int, xattrs: dict[bytes, bytes]) -> None:
    entry = make_entry(name, mtime_ns=seconds * 10**9 + 5, uid=uid, mode=mode, xattrs=xattrs)
    out = io.BytesIO()
    TarWriter(out.write).add(entry)
    assert list(TarReader(tar.chunks(out.getvalue(), 97))) == [entry]


def test_a_tree_is_written_in_order_with_links(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "f").write_bytes(b"data")
    os.link(tmp_path / "b" / "f", tmp_path / "a")
    os.symlink("b/f", tmp_path / "s")
    out = io.BytesIO()
    write_tree(str(tmp_path), out.write, newest_ns=10**9)
    reader = TarReader(tar.chunks(out.getvalue()))
    found = [(e.name, e.kind, e.target, b"".join(reader.data()), e.mtime_ns) for e in reader]
    assert found == [
        (b"./", Kind.DIRECTORY, b"", b"", 10**9),
        (b"./a", Kind.FILE, b"", b"data", 10**9),
        (b"./b/", Kind.DIRECTORY, b"", b"", 10**9),
        (b"./b/f", Kind.LINK, b"./a", b"", 10**9),
        (b"./s", Kind.SYMLINK, b"b/f", b"", 10**9),
    ]
