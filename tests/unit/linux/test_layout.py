import pytest

from bireme.linux.layout import Layout


def test_alignment_is_cs() -> None:
    sample = Layout("sample", "B a; I b; H c; Q d; 3s e")
    assert [sample.offset(name) for name in "abcde"] == [0, 4, 8, 16, 24]
    assert (sample.size, sample.alignment) == (32, 8)


def test_packed_has_no_holes() -> None:
    sample = Layout("sample", "B a; I b; Q c", packed=True)
    assert (sample.size, sample.offset("c")) == (13, 5)


def test_round_trip_and_defaults() -> None:
    sample = Layout("sample", "B a b; 4s c; i d")
    data = sample.pack(b=7, c=b"xy", d=-1)
    assert sample.unpack(data) == {"a": 0, "b": 7, "c": b"xy\0\0", "d": -1}
    buffer = bytearray(20)
    sample.pack_into(buffer, 4, a=9)
    assert sample.unpack(buffer, 4)["a"] == 9
    with pytest.raises(KeyError, match="sample has no z"):
        sample.pack(z=1)
