"""The engine's database: SQLite in WAL mode, one thread that commits, grouped.

A commit with synchronous=FULL costs one flush of the disk however many statements it holds. So writers put their
statements in a queue and get a future; the one committing thread takes all that is queued, runs it in one transaction,
commits once, and then resolves the futures. When something fails, each submission of the group is tried again alone, so
that one which fails takes nobody with it. A group in which nobody asked for durability commits with synchronous=NORMAL:
it survives every process's death and may be lost with the power, never torn.

Each statement given to sqlite3 is a hand-over of the interpreter lock in both directions, beside an event loop that
wants it too: so there are no savepoints, and a single statement is its own transaction.

Readers have a connection of their own; WAL lets them read while a commit is under way, and a read that starts after a
future resolved sees its rows.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

from bireme.errors import BiremeError, Conflict, Internal, Unavailable, Unsupported
from bireme.storage.migration import MIGRATIONS

Statement = tuple[str, Sequence[object]]

_BUSY_TIMEOUT_S = 10.0
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_UNAVAILABLE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
)


class _Submission(NamedTuple):
    statements: tuple[Statement, ...]
    durable: bool
    future: Future[None]


class Database:
    """One database file. `submit`, `query` and `close` may be called from any thread."""

    def __init__(self, path: str, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._read_lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Submission | None] = queue.SimpleQueue()
        self._submit_lock = threading.Lock()
        self._closed = False
        self._full = True
        self._thread = threading.Thread(target=self._run, name="bireme-commit", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Database:
        """Open or make the database and bring its schema up to date.

        Unavailable when the file is damaged or cannot be used, Unsupported when a newer release wrote it.
        """
        name = os.fspath(path)
        writer = reader = None
        try:
            writer = _connect(name)
            _check(writer, name)
            _migrate(writer, name)
            reader = _connect(name)
            reader.execute("pragma query_only = on")
            return cls(name, writer, reader)
        except sqlite3.Error as error:
            raise _translate(error, name) from error
        finally:
            if reader is None and writer is not None:
                writer.close()

    def submit(self, statements: Sequence[Statement], durable: bool = True) -> Future[None]:
        """Queue statements that take effect together or not at all; the future resolves after their commit.

        A violated constraint is Conflict, a full disk Unavailable. Submissions commit in the order they were made.
        """
        future: Future[None] = Future()
        with self._submit_lock:
            if self._closed:
                raise Unavailable("the database is closed", subject=self._path)
            self._queue.put(_Submission(tuple(statements), durable, future))
        return future

    def query(self, sql: str, args: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """All rows of a select, from the last committed state."""
        with self._read_lock:
            try:
                return self._reader.execute(sql, tuple(args)).fetchall()
            except sqlite3.Error as error:
                raise _translate(error, self._path) from error

    def close(self) -> None:
        """Commit what is queued and close; idempotent."""
        with self._submit_lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        with self._read_lock:
            self._reader.close()
        self._writer.close()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            stop = False
            while not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    stop = True
                    break
                group.append(item)
            self._commit([s for s in group if s.future.set_running_or_notify_cancel()])
            if stop:
                return

    def _commit(self, group: list[_Submission]) -> None:
        """Commit all of them together; when that fails, each alone."""
        error = self._transact(group) if group else None
        if error is not None and len(group) > 1:
            for submission in group:
                self._commit([submission])
            return
        for submission in group:
            if error is None:
                submission.future.set_result(None)
            else:
                submission.future.set_exception(error)

    def _transact(self, group: list[_Submission]) -> BiremeError | None:
        """Run the statements of a group as one transaction; the error that undid it."""
        statements = [statement for submission in group for statement in submission.statements]
        try:
            self._set_durability(any(s.durable for s in group))
            if len(statements) == 1:
                self._run_all(statements)
            else:
                self._writer.execute("begin immediate")
                self._run_all(statements)
                self._writer.execute("commit")
        except (sqlite3.Error, sqlite3.Warning, TypeError, ValueError, OverflowError) as error:
            self._rollback()
            shown = _translate(error, self._path)
            shown.__cause__ = error
            return shown
        return None

    def _run_all(self, statements: Sequence[Statement]) -> None:
        for sql, args in statements:
            self._writer.execute(sql, tuple(args))

    def _set_durability(self, full: bool) -> None:
        if full != self._full:
            self._writer.execute("pragma synchronous = " + ("full" if full else "normal"))
            self._full = full

    def _rollback(self) -> None:
        try:
            if self._writer.in_transaction:
                self._writer.execute("rollback")
        except sqlite3.Error:
            pass


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute("pragma foreign_keys = on")
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: str) -> None:
    rows = connection.execute("pragma quick_check(1)").fetchall()
    if rows != [("ok",)]:
        raise _damaged(path, str(rows[0][0]) if rows else "no answer")


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    version = int(connection.execute("pragma user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise Unsupported(
            f"database {path} has schema {version}, this release knows {len(MIGRATIONS)}",
            subject=path,
            hint="start the release that wrote it, or a newer one",
        )
    for number in range(version + 1, len(MIGRATIONS) + 1):
        connection.execute("begin immediate")
        try:
            for sql in MIGRATIONS[number - 1]:
                connection.execute(sql)
            connection.execute(f"pragma user_version = {number}")
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise


def _damaged(path: str, detail: str) -> Unavailable:
    return Unavailable(
        f"database {path} is damaged: {detail}",
        subject=path,
        hint="restore it from a backup, or move it away to start empty",
    )


def _translate(error: Exception, path: str) -> BiremeError:
    text = str(error)
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if isinstance(error, sqlite3.IntegrityError):
        return Conflict(text, place=path)
    if code in _DAMAGED:
        return _damaged(path, text)
    make = Unavailable if code in _UNAVAILABLE else Internal
    return make(f"database {path}: {text}", subject=path)
