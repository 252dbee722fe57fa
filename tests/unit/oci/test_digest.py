from __future__ import annotations

import hashlib

import pytest

from bireme.errors import Invalid, Unsupported
from bireme.oci import digest

EMPTY = "sha256:" + hashlib.sha256(b"").hexdigest()


def test_known_digests() -> None:
    assert digest.digest_of(b"") == EMPTY
    assert digest.digest_of(b"a", "sha512") == "sha512:" + hashlib.sha512(b"a").hexdigest()
    assert digest.check_digest(EMPTY) == EMPTY
    assert digest.split_digest(EMPTY) == ("sha256", EMPTY[7:])
    assert digest.encoded_of(EMPTY) == EMPTY[7:]


@pytest.mark.parametrize(
    "text",
    ["", "sha256", "sha256:", "sha256:abc", EMPTY.upper(), EMPTY + "0", EMPTY[:-1] + "g", "../" + EMPTY, EMPTY + "\n"],
)
def test_malformed_digests(text: str) -> None:
    with pytest.raises(Invalid):
        digest.check_digest(text)
    assert not digest.is_digest(text)


def test_unknown_algorithms() -> None:
    with pytest.raises(Unsupported):
        digest.check_digest("md5:" + "0" * 32)
    with pytest.raises(Unsupported):
        digest.new_hash("md5")


def test_chain_ids_follow_the_specification() -> None:
    a, b, c = (digest.digest_of(x) for x in (b"a", b"b", b"c"))
    ab = digest.digest_of(f"{a} {b}".encode())
    assert digest.chain_ids([a, b, c]) == [a, ab, digest.digest_of(f"{ab} {c}".encode())]
    assert digest.chain_ids([]) == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [0, 1, 4 << 20, (4 << 20) + 1, 9 << 20])
def test_short_and_long_data_hash_alike(algorithm: str, size: int) -> None:
    data = bytes(size)
    hasher = digest.new_hash(algorithm)
    for at in range(0, size, 1 << 20):
        hasher.update(memoryview(data)[at : at + (1 << 20)])
    assert hasher.hexdigest() == hashlib.new(algorithm, data).hexdigest()
