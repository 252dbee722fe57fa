"""Content digests, OCI image-spec descriptor.md "Digests": `algorithm ":" encoded`, lower-case hex.

A digest is a `str` that passed `check_digest`; only sha256 and sha512 are registered and computed here.

OpenSSL hashes six times faster than the interpreter's own code and costs 3.5 MiB of memory once hashlib has loaded it.
So nothing imports hashlib until something long is hashed: an engine that starts containers never does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

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


def _built_in(algorithm: str) -> Callable[[], Hash]:
    for module in (f"_{algorithm}", "_sha2", "hashlib"):  # Python 3.11, 3.12 and later, an interpreter without either
        try:
            found: Any = import_module(module)
        except ImportError:
            continue
        maker: Callable[[], Hash] = getattr(found, algorithm)
        return maker
    raise Unsupported("unsupported digest algorithm", subject=algorithm)


_MAKERS = {SHA256: _built_in(SHA256), SHA512: _built_in(SHA512)}
_LONG_BYTES = 4 << 20


def prepare_for_long() -> None:
    """Load OpenSSL now: for a process that is about to shut itself off from the file system."""
    import hashlib

    hashlib.sha256()


class _LongHash:
    """Keeps what comes until it is clear whether it gets long."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._hash: Hash | None = None

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        if self._hash is not None:
            self._hash.update(data)
            return
        self._kept.append(bytes(data))
        self._kept_bytes += len(self._kept[-1])
        if self._kept_bytes > _LONG_BYTES:
            import hashlib

            self._begin(hashlib.new(self._algorithm))

    def hexdigest(self) -> str:
        return (self._hash or self._begin(_MAKERS[self._algorithm]())).hexdigest()

    def _begin(self, chosen: Hash) -> Hash:
        self._hash = chosen
        for data in self._kept:
            chosen.update(data)
        self._kept.clear()
        return chosen


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
    """A fresh hash object for data of any length; Unsupported for an algorithm that is not registered."""
    if algorithm not in _MAKERS:
        raise Unsupported("unsupported digest algorithm", subject=algorithm)
    return _LongHash(algorithm)


def digest_of(data: bytes, algorithm: str = SHA256) -> str:
    """The digest of bytes in memory."""
    hasher = new_hash(algorithm)
    hasher.update(data)
    return f"{algorithm}:{hasher.hexdigest()}"


def sha256_hex(data: bytes) -> str:
    """The bare hex form, for names derived from other names."""
    hasher = _MAKERS[SHA256]()
    hasher.update(data)
    return hasher.hexdigest()


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The chain id of every layer, bottom up (OCI image-spec config.md "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain
