"""The contract of a content store: subclass, and provide the fixture `store`."""

from __future__ import annotations

import os
import threading

import pytest

from bireme.errors import BiremeError, Conflict, Invalid, NotFound, Unsupported
from bireme.oci.digest import digest_of
from bireme.storage.content import ContentStore


def ignore(_: str) -> None:
    """For tests that collect nothing."""


class ContentContract:
    def test_what_is_put_is_there(self, store: ContentStore) -> None:
        blob = store.put(ignore, b"data")
        assert blob == (digest_of(b"data"), 4)
        assert store.exists(blob.digest)
        assert store.size(blob.digest) == 4
        assert store.read(blob.digest, 4) == b"data"
        assert list(store.list()) == [blob]
        fd = store.open(blob.digest)
        assert os.read(fd, 100) == b"data"
        os.close(fd)

    def test_pieces_make_one_blob(self, store: ContentStore) -> None:
        expected = digest_of(b"one two", "sha512")
        with store.begin(ignore, expected, 7) as ingest:
            ingest.write(b"one ")
            ingest.write(memoryview(b"two"))
            assert not store.exists(expected)
            assert ingest.commit().digest == expected
        assert store.read(expected, 7) == b"one two"

    def test_wrong_content_never_gets_a_name(self, store: ContentStore) -> None:
        wrong = digest_of(b"other")
        with pytest.raises(Invalid, match="digest"):
            store.put(ignore, b"data", wrong)
        with store.begin(ignore, "", 5) as ingest:
            ingest.write(b"data")
            with pytest.raises(Invalid, match="expected 5"):
                ingest.commit()
        with store.begin(ignore, "", 3) as ingest, pytest.raises(Invalid, match="larger"):
            ingest.write(b"data")
        assert list(store.list()) == []
        assert store.sweep() == 0

    def test_an_abandoned_ingest_leaves_nothing(self, store: ContentStore) -> None:
        with store.begin(ignore) as ingest:
            ingest.write(b"data")
        with pytest.raises(Conflict):
            ingest.commit()
        assert list(store.list()) == []
        assert store.sweep() == 0

    def test_the_same_twice_is_once(self, store: ContentStore) -> None:
        assert store.put(ignore, b"data") == store.put(ignore, b"data", digest_of(b"data"))
        assert len(list(store.list())) == 1

    def test_the_claim_comes_before_the_name(self, store: ContentStore) -> None:
        seen: list[tuple[str, bool]] = []
        store.put(lambda digest: seen.append((digest, store.exists(digest))), b"data")
        assert seen == [(digest_of(b"data"), False)]

    def test_what_is_not_there(self, store: ContentStore) -> None:
        missing = digest_of(b"missing")
        assert not store.exists(missing)
        for call in (store.size, store.open, lambda digest: store.read(digest, 1)):
            with pytest.raises(NotFound):
                call(missing)
        assert store.remove(missing) == 0

    def test_removal(self, store: ContentStore) -> None:
        blob = store.put(ignore, b"data")
        assert store.remove(blob.digest) == 4
        assert not store.exists(blob.digest)

    def test_reading_is_bounded_and_verified(self, store: ContentStore) -> None:
        blob = store.put(ignore, b"data")
        with pytest.raises(Invalid):
            store.read(blob.digest, 3)
        os.chmod(store.path(blob.digest), 0o600)
        with open(store.path(blob.digest), "r+b") as file:
            file.write(b"evil")
        with pytest.raises(BiremeError, match="damaged"):
            store.read(blob.digest, 10)

    def test_digests_are_no_paths(self, store: ContentStore) -> None:
        for digest in ("../../etc/passwd", "sha256:../x", "sha256:" + "A" * 64, "", "sha256"):
            with pytest.raises(Invalid):
                store.exists(digest)
        with pytest.raises(Unsupported):
            store.exists("md5:" + "0" * 32)

    def test_sweep_takes_dead_writers_files_and_spares_the_living(self, store: ContentStore) -> None:
        ingest = store.begin(ignore)
        ingest.write(b"data")
        assert store.sweep() == 0
        assert ingest.commit().size_bytes == 4

    def test_writers_of_the_same_blob_at_once(self, store: ContentStore) -> None:
        failures: list[BaseException] = []

        def write() -> None:
            try:
                for number in range(10):
                    store.put(ignore, b"shared %d" % number)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(list(store.list())) == 10
        assert store.sweep() == 0
