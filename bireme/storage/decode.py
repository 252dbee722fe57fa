"""Decoding a compressed archive in a jailed process: C libraries see hostile bytes only there.

One thread does it all: whoever wants a chunk feeds the worker while it has nothing to give, so nothing is left running
when the reader stops half-way.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bireme.errors import Internal, from_wire
from bireme.storage.codec import CHUNK, MAGIC_MAX_BYTES, RAW_CHUNK, Chunks, compression_of

_NOISE_MAX_BYTES = 4000


@contextmanager
def decoded(read: Callable[[int], bytes]) -> Iterator[Chunks]:
    """Decoded chunks (b"" at the end) of what `read(n)` returns, plain data as it is, for the length of a `with`.

    The chunks raise Invalid for corrupt or truncated data.
    """
    head = b""
    while len(head) < MAGIC_MAX_BYTES and (more := read(MAGIC_MAX_BYTES - len(head))):
        head += more
    if not compression_of(head):
        pending = [head] if head else []
        yield lambda: pending.pop() if pending else read(RAW_CHUNK)
        return
    worker = _start()
    try:
        yield _Feed(worker, read, head).chunk
    finally:
        worker.kill()
        worker.wait()
        for stream in (worker.stdin, worker.stdout, worker.stderr):
            if stream is not None:
                stream.close()


def _start() -> subprocess.Popen[bytes]:
    path = tempfile.mkdtemp(prefix="bireme-decode-")
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.rmdir(path)
        return subprocess.Popen(
            [sys.executable, "-I", "-m", "bireme.storage.decode_worker", str(root), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=(root,),
            cwd="/",
        )
    finally:
        os.close(root)


class _Feed:
    """The three pipes of a worker."""

    def __init__(self, worker: subprocess.Popen[bytes], read: Callable[[int], bytes], head: bytes) -> None:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stderr is not None
        self._worker = worker
        self._read = read
        self._stdin = worker.stdin
        self._output = worker.stdout.fileno()
        self._errors = worker.stderr.fileno()
        self._pending = memoryview(head)
        os.set_blocking(self._stdin.fileno(), False)
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._poll.register(self._stdin.fileno(), select.POLLOUT)

    def chunk(self) -> bytes:
        while True:
            ready = dict(self._poll.poll())
            if self._output in ready:
                return os.read(self._output, CHUNK) or self._end()
            self._feed()

    def _feed(self) -> None:
        if not self._pending:
            self._pending = memoryview(self._read(RAW_CHUNK))
        try:
            if self._pending:
                self._pending = self._pending[os.write(self._stdin.fileno(), self._pending) :]
                return
        except BlockingIOError:
            return
        except BrokenPipeError:
            pass
        self._poll.unregister(self._stdin.fileno())
        self._stdin.close()

    def _end(self) -> bytes:
        """The end of the output is the end of the data only if the worker says so."""
        code = self._worker.wait()
        if not code:
            return b""
        words = os.read(self._errors, _NOISE_MAX_BYTES)
        try:
            raise from_wire(json.loads(words))
        except ValueError:
            how = f"signal {-code}" if code < 0 else f"code {code}"
            hint = words.decode("utf-8", "replace").strip()[-500:]
            raise Internal(f"decode worker ended with {how}", place="decode worker", hint=hint) from None
