"""Which entries of the allow lists do processes use? Every call after the jail is shut is asked about and noted.

    with Recorder() as recorder:                  a process of its own, looking for jailed descendants of this one
        ... jail.enter("block", uid, fds) ...     in descendants, with `jail.load = ask_about_every_call`
    recorder.used("block")                        entries, `recorder.missing` what no entry allows

A filter of one instruction sends every call to a listener (SECCOMP_RET_USER_NOTIF, seccomp_unotify(2)), and the process
waits. The recorder finds the listener among the process's descriptors, takes a duplicate (pidfd_getfd(2)), looks each
call up in the list as the kernel would, and lets it continue; what the list answers with an errno gets that. A call
that nothing allows is noted and continues too, so that one run tells all that is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import queue
import select
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from bireme.linux.ioctl import ioctl, iowr
from bireme.linux.libc import SyscallError, syscall
from bireme.linux.numbers import number
from bireme.linux.process import fork, pidfd_getfd, pidfd_open, set_name
from bireme.linux.seccomp import table
from bireme.vmm import jail
from bireme.vmm.allowlist import ALLOWED, Condition, Entry

_NEW_LISTENER = 8
_USER_NOTIF = 0x7FC00000
_CONTINUE = 1
_notification = struct.Struct("=QIIiIQ6Q")
_answer = struct.Struct("=QqiI")
_RECEIVE = iowr("!", 0, _notification)
_SEND = iowr("!", 1, _answer)
_NAMES = {value: name for name, value in table.syscalls("x86_64").items()}
_OF_THREADS = {table.syscalls("x86_64")[name] for name in ("futex", "mprotect", "madvise")}
"""Not noted in a thread of a process that has none in its jail (RecordedThread)."""
_PREFIX = "jail-"


def ask_about_every_call(code: bytes) -> None:
    """In place of `jail.load`: nothing is allowed without asking, everything is in the end."""
    kind = next(kind for kind in ALLOWED if jail.program(kind) == code)
    set_name(_PREFIX + kind)
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, _USER_NOTIF), 8)
    header = struct.pack("@HP", 1, ctypes.addressof(program))
    syscall("seccomp", number("seccomp"), 1, _NEW_LISTENER, header)


class RecordedThread:
    """Calls of one function, all in a thread that is recorded as a process of `kind` while the rest of the process is
    not: for a part that a test plays against. Call it like the function. For a process that has been forked for it."""

    def __init__(self, kind: str, function: Callable[[Any], Any]) -> None:
        set_name(_PREFIX + kind)
        self._kind = kind
        self._function = function
        self._asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._main, daemon=True).start()

    def _main(self) -> None:
        ask_about_every_call(jail.program(self._kind))
        while True:
            self._answers.put(self._function(self._asked.get()))

    def __call__(self, argument: Any = None) -> Any:
        self._asked.put(argument)
        return self._answers.get()


class Recorder:
    """See the head."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self.missing: list[str] = []

    def __enter__(self) -> Self:
        self._result, writer = os.pipe()
        hold, self._stop = os.pipe()
        root = os.getpid()
        self._pid = fork()
        if self._pid == 0:
            try:
                os.close(self._result)
                os.close(self._stop)
                found = _Record(root, hold).run()
                with open(writer, "w") as file:
                    json.dump(found, file)
            finally:
                os._exit(0)
        os.close(writer)
        os.close(hold)
        jail.load = ask_about_every_call
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        jail.load = jail.seccomp.load
        os.close(self._stop)
        with open(self._result) as file:
            found = json.load(file)
        os.waitpid(self._pid, 0)
        self._counts, self.missing = found["used"], found["missing"]

    def used(self, kind: str) -> list[Entry]:
        counts = self._counts.get(kind, [])
        return [entry for entry, count in zip(ALLOWED[kind], counts, strict=False) if count]


class _Record:
    """The recorder's own process."""

    def __init__(self, root: int, stop: int) -> None:
        self._root = root
        self._stop = stop
        self._poll = select.poll()
        self._poll.register(stop, select.POLLHUP)
        self._listeners: dict[int, tuple[int, str]] = {}
        self._known: set[int] = set()
        self._used = {kind: [0] * len(entries) for kind, entries in ALLOWED.items()}
        self._missing: dict[str, str] = {}

    def run(self) -> dict[str, object]:
        while True:
            for fd, events in self._poll.poll(10):
                if fd == self._stop:
                    return {"used": self._used, "missing": [name + example for name, example in self._missing.items()]}
                if events & select.POLLIN:
                    self._serve(fd)
                else:
                    self._poll.unregister(fd)
                    os.close(fd)
            self._look()

    def _look(self) -> None:
        """New jailed processes: they have the name that `ask_about_every_call` gave them."""
        for pid in _descendants(self._root) - self._known:
            with contextlib.suppress(OSError, SyscallError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if name.startswith(_PREFIX):
                    self._take(pid, name.removeprefix(_PREFIX))

    def _take(self, pid: int, kind: str) -> None:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{entry}") == "anon_inode:seccomp notify":
                pidfd = pidfd_open(pid)
                listener = pidfd_getfd(pidfd, int(entry))
                os.close(pidfd)
                self._known.add(pid)
                self._listeners[listener] = (pid, kind)
                self._poll.register(listener, select.POLLIN)

    def _serve(self, listener: int) -> None:
        pid, kind = self._listeners[listener]
        block = bytearray(_notification.size)
        try:
            ioctl(listener, _RECEIVE, block)
            ident, thread, _, call, _, _, *arguments = _notification.unpack(block)
            of_a_thread = thread != pid and kind != "vmm" and call in _OF_THREADS
            failure = 0 if of_a_thread else self._note(kind, call, arguments)
            reply = _answer.pack(ident, 0, -failure, 0 if failure else _CONTINUE)
            ioctl(listener, _SEND, bytearray(reply))
        except SyscallError as error:
            if error.errno not in (errno.ENOENT, errno.EINTR):
                raise

    def _note(self, kind: str, call: int, arguments: list[int]) -> int:
        """Count the entry that allows it; the errno to answer, or 0."""
        name = _NAMES.get(call, str(call))
        for index, entry in enumerate(ALLOWED[kind]):
            if entry.call == name and all(_holds(condition, arguments) for condition in entry.when):
                self._used[kind][index] += 1
                return entry.errno
        self._missing.setdefault(f"{kind}: {name}", f"({', '.join(hex(value) for value in arguments)})")
        return 0


def _holds(condition: Condition, arguments: list[int]) -> bool:
    return arguments[condition.argument] & condition.mask == condition.value


def _descendants(root: int) -> set[int]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
    found = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found - {root}
        found |= more


def main(output: str, arguments: list[str]) -> int:
    """Run pytest under a recorder; what was used (positions in the lists) and missing goes to `output` as JSON."""
    with Recorder() as recorder:
        code = int(pytest.main(arguments))
    used = {kind: [ALLOWED[kind].index(entry) for entry in recorder.used(kind)] for kind in ALLOWED}
    Path(output).write_text(json.dumps({"used": used, "missing": recorder.missing}))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
