"""Content digests, OCI image-spec descriptor.md "Digests": `algorithm ":" encoded`, lower-case hex.

A digest is a `str` that passed `check_digest`; only sha256 and sha512 are registered and computed here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Protocol

from bireme.errors import Invalid, Unsupported

SHA256 = "sha256"
SHA512 = "sha512"

_HEX_LENGTHS = {SHA256: 64, SHA512: 128}
_GRAMMAR = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+\Z")
_HEX = re.compile(r"[0-9a-f]+\Z")


class Hash(Protocol):
    """What hashlib's objects offer of what we use."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


_MAKERS: dict[str, Callable[[], Hash]] = {SHA256: hashlib.sha256, SHA512: hashlib.sha512}


def check_digest(text: str) -> str:
    """`text` itself when it is a well-formed digest; Invalid otherwise, Unsupported for an unknown algorithm."""
    if not isinstance(text, str) or len(text) > 256 or not _GRAMMAR.match(text):
        raise Invalid("invalid checksum digest format", subject=str(text)[:256])
    algorithm, _, encoded = text.partition(":")
    length = _HEX_LENGTHS.get(algorithm)
    if length is None:
        raise Unsupported("unsupported digest algorithm", subject=text)
    if len(encoded) != length:
        raise Invalid("invalid checksum digest length", subject=text)
    if not _HEX.match(encoded):
        raise Invalid("invalid checksum digest format", subject=text)
    return text


def is_digest(text: str) -> bool:
    """Whether `check_digest` would pass."""
    try:
        check_digest(text)
    except (Invalid, Unsupported):
        return False
    return True


def split_digest(digest: str) -> tuple[str, str]:
    """(algorithm, hex) of a checked digest."""
    algorithm, _, encoded = digest.partition(":")
    return algorithm, encoded


def encoded_of(digest: str) -> str:
    """The hex part."""
    return digest.partition(":")[2]


def new_hash(algorithm: str = SHA256) -> Hash:
    """A fresh hash object; Unsupported for an algorithm that is not registered."""
    maker = _MAKERS.get(algorithm)
    if maker is None:
        raise Unsupported("unsupported digest algorithm", subject=algorithm)
    return maker()


def digest_of(data: bytes, algorithm: str = SHA256) -> str:
    """The digest of bytes in memory."""
    hasher = new_hash(algorithm)
    hasher.update(data)
    return f"{algorithm}:{hasher.hexdigest()}"


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The chain id of every layer, bottom up (OCI image-spec config.md "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain
