"""The content store: blobs by their digest, immutable, verified before they get their name.

    ROOT/blobs/sha256/HEX
    ROOT/ingest/RANDOM      being written

A blob is written to `ingest`, hashed on the way, compared with what was promised, flushed, renamed to its digest, and
the directory flushed: whoever sees a name sees all of its bytes, after a power cut too. A process that dies leaves a
file in `ingest`, which `sweep` removes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple

from bireme.errors import Conflict, Internal, Invalid, NotFound, Unavailable
from bireme.oci.digest import SHA256, SHA512, check_digest, new_hash, split_digest
from bireme.storage.durable import sync_directory

_ALGORITHMS = (SHA256, SHA512)

Claim = Callable[[str], None]


class Blob(NamedTuple):
    """A stored blob."""

    digest: str
    size_bytes: int


class ContentStore:
    """Blobs below `root`. Every method may be called from any thread."""

    def __init__(self, root: str) -> None:
        self._blobs = f"{root}/blobs"
        self._ingest = f"{root}/ingest"
        self._writing: set[str] = set()
        for path in (root, self._blobs, *(f"{self._blobs}/{algorithm}" for algorithm in _ALGORITHMS), self._ingest):
            os.makedirs(path, 0o700, exist_ok=True)

    def path(self, digest: str) -> str:
        """Where the blob is, or would be."""
        algorithm, encoded = split_digest(check_digest(digest))
        return f"{self._blobs}/{algorithm}/{encoded}"

    def exists(self, digest: str) -> bool:
        return os.path.isfile(self.path(digest))

    def size(self, digest: str) -> int:
        """Bytes of a blob; NotFound."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            raise _missing(digest) from None

    def open(self, digest: str) -> int:
        """A descriptor that reads the blob; NotFound. The caller closes it."""
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _missing(digest) from None

    def read(self, digest: str, limit: int) -> bytes:
        """All bytes of a blob and proof that they are what the digest says; Invalid when it is larger than `limit`."""
        fd = self.open(digest)
        with os.fdopen(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise Invalid(f"blob is larger than {limit} bytes", subject=digest)
        hasher = new_hash(split_digest(digest)[0])
        hasher.update(data)
        if hasher.hexdigest() != split_digest(digest)[1]:
            raise Internal(f"blob {digest} is damaged on disk", subject=digest, hint="remove and load the image again")
        return data

    def begin(self, claim: Claim, digest: str = "", size_bytes: int = -1) -> Ingest:
        """Start writing a blob. What is given is compared at `commit`.

        `claim` gets the digest before the blob is looked for or named: a lease's `add_blob`, or it may be collected.
        """
        name = os.urandom(16).hex()
        self._writing.add(name)
        return Ingest(self, f"{self._ingest}/{name}", claim, check_digest(digest) if digest else "", size_bytes)

    def put(self, claim: Claim, data: bytes, digest: str = "") -> Blob:
        """Store bytes in memory."""
        with self.begin(claim, digest, len(data)) as ingest:
            ingest.write(data)
            return ingest.commit()

    def remove(self, digest: str) -> int:
        """Forget a blob, absent is fine; the bytes that became free."""
        path = self.path(digest)
        try:
            size = os.stat(path).st_size
            os.unlink(path)
        except FileNotFoundError:
            return 0
        return size

    def list(self) -> Iterator[Blob]:
        """Every blob."""
        for algorithm in _ALGORITHMS:
            with os.scandir(f"{self._blobs}/{algorithm}") as entries:
                for entry in entries:
                    yield Blob(f"{algorithm}:{entry.name}", entry.stat().st_size)

    def sweep(self) -> int:
        """Remove what dead writers left; how many files."""
        count = 0
        for name in os.listdir(self._ingest):
            if name not in self._writing:
                try:
                    os.unlink(f"{self._ingest}/{name}")
                    count += 1
                except FileNotFoundError:
                    continue
        return count

    def _done(self, path: str) -> None:
        self._writing.discard(os.path.basename(path))


class Ingest:
    """One blob being written; leaving the `with` block without `commit` removes it."""

    def __init__(self, store: ContentStore, path: str, claim: Claim, digest: str, size_bytes: int) -> None:
        self._store = store
        self._claim = claim
        self._path = path
        self._digest = digest
        self._expected = size_bytes
        self._algorithm = split_digest(digest)[0] if digest else SHA256
        self._hash = new_hash(self._algorithm)
        self._open = True
        self.size_bytes = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> Ingest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def write(self, data: bytes | memoryview) -> None:
        """Append; Invalid as soon as there is more than was promised, Unavailable when the disk is full."""
        view = memoryview(data)
        self._hash.update(view)
        self.size_bytes += len(view)
        if 0 <= self._expected < self.size_bytes:
            raise Invalid(f"blob is larger than {self._expected} bytes", subject=self._digest)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise Unavailable(f"cannot store blob: {error.strerror}", subject=self._digest) from error

    def commit(self) -> Blob:
        """Verify, make durable, and name it. Invalid when digest or size differ from what was promised."""
        if not self._open:
            raise Conflict("ingest is over", subject=self._path)
        digest = f"{self._algorithm}:{self._hash.hexdigest()}"
        if self._digest and digest != self._digest:
            raise Invalid(f"blob has digest {digest}, expected {self._digest}", subject=self._digest)
        if 0 <= self._expected != self.size_bytes:
            raise Invalid(f"blob has {self.size_bytes} bytes, expected {self._expected}", subject=digest)
        target = self._store.path(digest)
        self._claim(digest)
        if os.path.exists(target):
            self.abort()
        else:
            self._name(target)
        return Blob(digest, self.size_bytes)

    def _name(self, target: str) -> None:
        try:
            os.fsync(self._fd)
            os.rename(self._path, target)
            sync_directory(os.path.dirname(target))
        except OSError as error:
            raise Unavailable(f"cannot store blob: {error.strerror}", subject=self._digest) from error
        self._close()

    def abort(self) -> None:
        """Drop what was written; nothing after `commit`."""
        if self._open:
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass
            self._close()

    def _close(self) -> None:
        self._open = False
        os.close(self._fd)
        self._store._done(self._path)


def _missing(digest: str) -> NotFound:
    return NotFound(f"content {digest} does not exist", subject=digest)
