"""The dialogue between whoever starts a container and the process that becomes it.

    starter (supervisor, bireme-runtime)      spawn (zygote, or the starter)    child (becomes init)
      spawn(request) + [ctl] ---------------> makes /dev, clones -------------> waits on a pipe
                                              writes the id maps
                          <-- child{pid}+[pidfd]  lets it go -----------------> joins cgroups, takes its ids,
                          <---------------------------------- namespaces{} ---  with hooks: then it waits for go
                                                                                builds the skeleton, pivots
                          <--------------------------------------- ready{} ---  parks
      (now or much later)
      apply_outside, assemble
      start{plan} + fds   ----------------------------------------------------> configures, moves everything in
                          <---------------------------- console{}+[master] ---  with a terminal
                          <------------------------------------- created{} ---  with `hold`: then it waits for a
                                                                                connection on the listening socket
                          <----------------------------------------- (EOF) ---  exec happened: ctl is CLOEXEC

    A container that joins namespaces by path has a stage between spawn and child: it joins them and its cgroup, clones
    as above, exits, and is reaped by the starter.

    Anywhere: error{stage, errno, subject, message}, then EOF; the process ends with status 127 or 126.
    A starter that goes away before `start` (EOF for the child) makes the child leave without a word.

    exec: spawn_exec enters the pid namespace for the clone; the child joins cgroups and namespaces, takes start{plan}.
    Or a parked process does it all: parked.py.

One JSON object per SOCK_SEQPACKET message with the descriptors named. A plan that does not fit a packet travels as a
sealed memfd, the last descriptor of the message. The plan goes straight to the child, never through the zygote: its
memory must not hold an environment that later children would inherit.

Descriptors of `start`, in this order: stdin, stdout, stderr (none with a terminal); the root; one for each bind of
plan["mounts"], in order; one for each of plan["devices"]; with `hold` the listening socket; then `pass_files` ones.
For an exec: the three (or none), then `pass_files`.
"""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Protocol, TypedDict

from bireme.errors import BiremeError
from bireme.linux.fd import read_sealed, recv_fds, sealed_memfd, send_fds
from bireme.linux.libc import SyscallError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

READY = b'{"m":"ready"}'
"""`ready` as it is sent: the same each time."""
INLINE_BYTES = 96 << 10
MAX_PLAN_BYTES = 16 << 20


class Joiner(Protocol):
    """The part of a cgroup manager that a stage needs (linux/cgroup)."""

    def join(self, name: str) -> None:
        """Move the calling process into the named cgroup: on v1, where it may wait for an RCU grace period."""
        ...

    def clone_fd(self, name: str) -> int:
        """A descriptor for a clone straight into it, -1 where that is not possible (v1)."""
        ...


class Reply(TypedDict):
    """What comes back on ctl; see the drawing."""

    m: Literal["child", "namespaces", "ready", "console", "created", "spawning", "error"]
    pid: NotRequired[int]
    stage: NotRequired[str]
    errno: NotRequired[int]
    subject: NotRequired[str]
    message: NotRequired[str]


class StartFailed(BiremeError):
    """An `error` reply as an exception: `stage` is where, `errno` the kernel's reason (0: none), `code` the exit code
    Docker gives it: 127 not found, 126 not executable or not permitted, 128 anything else before the program ran."""

    kind = "invalid"

    def __init__(self, stage: str, errno: int, subject: str, message: str) -> None:
        super().__init__(message, subject=subject, place=stage)
        self.stage = stage
        self.errno = errno

    @property
    def code(self) -> int:
        return exit_code(self.stage, self.errno)


def exit_code(stage: str, number: int) -> int:
    """The status of a process that could not become its program."""
    if stage != "exec":
        return 128
    return 127 if number in (errno.ENOENT, errno.ENOTDIR) else 126


_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def send_message(ctl: socket.socket, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message; a large one goes through a sealed memfd."""
    data = _encoder.encode(message).encode("utf-8", "surrogateescape")
    if len(data) <= INLINE_BYTES:
        send_fds(ctl, data, list(fds))
        return
    memfd = sealed_memfd("bireme-plan", data)
    try:
        send_fds(ctl, b"@", [*fds, memfd])
    finally:
        os.close(memfd)


def send_child(ctl: socket.socket, pid: int, pidfd: int) -> None:
    """`child`, without the detours: a zygote copies each page it touches after a clone."""
    send_fds(ctl, b'{"m":"child","pid":%d}' % pid, (pidfd,))


def receive_message(ctl: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors, None at the end of the stream (also when the other side reset it)."""
    try:
        data, fds = recv_fds(ctl)
    except ConnectionResetError:
        return None
    if not data:
        return None
    if data == b"@":
        memfd = fds.pop()
        try:
            data = read_sealed(memfd, MAX_PLAN_BYTES)
        finally:
            os.close(memfd)
    message: dict[str, Any] = json.loads(data.decode("utf-8", "surrogateescape"))
    return message, fds


def describe_error(stage: str, error: BaseException) -> Reply:
    """The `error` reply for an exception."""
    number = (error.errno or 0) if isinstance(error, OSError) else 0
    subject = ""
    if isinstance(error, StartFailed):
        stage, number, subject, message = error.stage, error.errno, error.subject, error.message
    elif isinstance(error, BiremeError):
        subject, message = error.subject, str(error)
    elif isinstance(error, SyscallError):
        subject = error.subject
        message = (
            f"{error.call} {subject}: {(error.strerror or '').lower()}"
            if subject
            else f"{error.call}: {(error.strerror or '').lower()}"
        )
    elif isinstance(error, OSError):
        subject = str(error.filename or "")
        message = f"{subject}: {(error.strerror or '').lower()}" if subject else (error.strerror or "").lower()
    else:
        message = f"{type(error).__name__}: {error}"
    return {"m": "error", "stage": stage, "errno": number, "subject": subject, "message": message}


def report(ctl: socket.socket, stage: str, error: BaseException) -> None:
    """Tell the starter; when it is gone nobody wants to know."""
    try:
        send_message(ctl, describe_error(stage, error))
    except OSError:
        return
