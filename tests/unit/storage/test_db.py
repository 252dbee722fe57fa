from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bireme.errors import Conflict, Internal, Unavailable, Unsupported
from bireme.storage.db import Database
from bireme.storage.migration import MIGRATIONS

INSERT = "insert into kv (key, value) values (?, ?)"


def test_a_resolved_submission_is_visible_to_readers(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "db.sqlite")
    for durable in (True, False):
        db.submit([(INSERT, (f"k{durable}", b"v"))], durable=durable).result(30)
        assert db.query("select value from kv where key = ?", (f"k{durable}",)) == [(b"v",)]
    db.close()


def test_rows_outlive_the_process(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "db.sqlite")
    db.submit([(INSERT, ("a", b"1"))])
    db.close()
    again = Database.open(tmp_path / "db.sqlite")
    assert again.query("select key, value from kv") == [("a", b"1")]
    again.close()


def test_a_violated_constraint_undoes_only_its_own_submission(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "db.sqlite")
    first = db.submit([(INSERT, ("a", b""))])
    second = db.submit([(INSERT, ("b", b"")), (INSERT, ("a", b""))])
    third = db.submit([(INSERT, ("c", b""))])
    first.result(30)
    with pytest.raises(Conflict):
        second.result(30)
    third.result(30)
    assert db.query("select key from kv order by key") == [("a",), ("c",)]
    db.close()


def test_bad_sql_is_internal_and_bad_values_too(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "db.sqlite")
    for statement in (("insert into nowhere values (1)", ()), (INSERT, ("a", object())), (INSERT, ("a",))):
        with pytest.raises(Internal):
            db.submit([statement]).result(30)
    with pytest.raises(Internal):
        db.query("select * from nowhere")
    db.submit([(INSERT, ("a", b""))]).result(30)
    db.close()


def test_many_writers_are_grouped_and_none_is_lost(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "db.sqlite")

    def write(writer: int) -> None:
        for number in range(25):
            db.submit([(INSERT, (f"{writer}.{number}", b""))], durable=number % 5 == 0).result(60)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db.query("select count(*) from kv") == [(100,)]
    db.close()


def test_submissions_keep_their_order(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "db.sqlite")
    for number in range(50):
        db.submit([("insert or replace into kv (key, value) values ('k', ?)", (number,))], durable=False)
    db.submit([]).result(30)
    assert db.query("select value from kv") == [(49,)]
    db.close()


def test_closed_means_closed(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "db.sqlite")
    db.close()
    db.close()
    with pytest.raises(Unavailable):
        db.submit([(INSERT, ("a", b""))])


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    path.write_bytes(b"this is not a database at all" * 400)
    with pytest.raises(Unavailable, match=r"db\.sqlite is damaged") as caught:
        Database.open(path)
    assert "backup" in caught.value.hint


def test_damaged_pages_are_found_at_open(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    db = Database.open(path)
    db.submit([(INSERT, (f"key {n}", b"x" * 200)) for n in range(400)]).result(60)
    db.close()
    data = bytearray(path.read_bytes())
    data[8192 : len(data) - 4096] = b"\xa5" * (len(data) - 12288)
    path.write_bytes(data)
    with pytest.raises(Unavailable, match="damaged"):
        Database.open(path)


def test_an_unusable_place_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        Database.open(tmp_path / "missing" / "db.sqlite")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    Database.open(path).close()
    raw = sqlite3.connect(path)
    raw.execute(f"pragma user_version = {len(MIGRATIONS) + 1}")
    raw.close()
    with pytest.raises(Unsupported, match="schema"):
        Database.open(path)


def test_a_cancelled_future_is_not_written(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "db.sqlite")
    future = db.submit([(INSERT, ("a", b""))])
    done = not future.cancel()
    db.submit([]).result(30)
    assert bool(db.query("select * from kv")) is done
    db.close()


WRITER = """
import sys
from bireme.storage.db import Database
db = Database.open(sys.argv[1])
for number in range(100000):
    statement = ("insert into kv (key, value) values (?, ?)", (f"{sys.argv[2]}.{number}", b""))
    db.submit([statement], durable=number % 2 == 0).result()
    print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    expected: set[str] = set()
    for run in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(run)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            for _ in range(20 + run):
                expected.add(f"{run}.{process.stdout.readline().strip()}")
            process.send_signal(signal.SIGKILL)
            expected.update(f"{run}.{line.strip()}" for line in process.stdout if line.endswith("\n"))
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        db = Database.open(path)
        assert expected <= {str(row[0]) for row in db.query("select key from kv")}
        db.close()
