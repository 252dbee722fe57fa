"""What the engine's microVM driver says to a running machine: one JSON object per SOCK_SEQPACKET message.

    driver                                    link process of the machine
      hello{version} ---------------------->
                     <---------------------  ok{version, state, execs}; then every unacknowledged exec's end again
      exec{exec_id, process, stdin} + fds ->                            (rid 7)
      ping{}         ---------------------->                            (rid 8)
                     <---------------------  ok{}                       (rid 8: answers need not keep the order)
                     <---------------------  ok{pid}                    (rid 7: the program was executed)
                     <---------------------  event exec_exited{exec_id, code, signal, at_ns}
      exec_acknowledge{exec_id} ----------->
                     <---------------------  ok{}

Messages, replies, errors, descriptors and long messages are as in wire/supervision, whose codec this is: a request
{"rid": n, "op": name, ...}, its reply {"rid": n, "ok": {...}} or {"rid": n, "error": {...}} (with `stage` and `errno`
where a program could not be executed), an event with "event" and no rid, `@SIZE` and a sealed memfd for a long one.

Operations (fields -> what `ok` holds):

    hello{version}                     -> version, state (see State), execs[ExecRow]; must come first
    exec{exec_id, process, stdin} + [stdin, stdout, stderr] or [console]
                                       -> pid (as seen inside); `process` is wire.agent.Process. Without `stdin` the
                                          first descriptor is left out. `console` is the slave of a pty: the link makes
                                          it raw, the terminal that counts is the guest's. All are the link's then.
    exec_signal{exec_id, number}  exec_resize{exec_id, rows, cols}  exec_acknowledge{exec_id}          -> nothing
    signal{number, all}                -> nothing; to the first process, with `all` to every one
    resize{rows, cols}                 -> nothing; the first process's terminal
    pause{}  resume{}                  -> nothing; the virtual CPUs stand still in between
    processes{}                        -> processes[ProcessRow], truncated
    stats{}                            -> GuestStats
    explain{}                          -> machine (from the VMM), link, agent
    ping{}                             -> nothing

A client may go away and come back: an exec goes on, its end is told to every client and again after each hello, until
one acknowledges it. A stream whose reader went away is read to nowhere, as by a container's logger; a terminal whose
other side is closed hangs up.

Versions: each side names the newest version it speaks in hello, the lower one counts; below OLDEST is Unsupported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from bireme.errors import Invalid
from bireme.wire import versions
from bireme.wire.supervision import (
    INLINE_LIMIT,
    MAX_MESSAGE,
    RECEIVE_SIZE,
    Packet,
    Refused,
    decode,
    encode,
    refusal,
    refused,
    reply,
    request,
)

if TYPE_CHECKING:
    from bireme.wire.agent import Process

__all__ = [
    "INLINE_LIMIT",
    "MAX_MESSAGE",
    "OLDEST",
    "OPERATIONS",
    "RECEIVE_SIZE",
    "VERSION",
    "Exec",
    "ExecExited",
    "ExecRow",
    "GuestStats",
    "Packet",
    "ProcessRow",
    "Refused",
    "State",
    "agreed_version",
    "check_exec",
    "decode",
    "encode",
    "exec_exited",
    "refusal",
    "refused",
    "reply",
    "request",
    "stream_names",
]

VERSION = 1
OLDEST = 1

OPERATIONS = (
    "hello",
    "exec",
    "exec_signal",
    "exec_resize",
    "exec_acknowledge",
    "signal",
    "resize",
    "pause",
    "resume",
    "processes",
    "stats",
    "explain",
    "ping",
)

STATES = ("booting", "running", "paused", "ended")
"""What `state` in hello's answer may be: the first process is not executed yet, runs, stands still, has ended."""

State = str


class Exec(TypedDict):
    """Request `exec`."""

    exec_id: str
    process: Process
    stdin: bool


class ExecRow(TypedDict):
    """One exec in hello's answer: running (code -1), or ended and not yet acknowledged. `pid` is the inside's."""

    exec_id: str
    pid: int
    terminal: bool
    code: int
    signal: int
    at_ns: int


class ExecExited(TypedDict):
    """Event `exec_exited`: `code` is the exit code or 128 + signal; `at_ns` is the host's clock."""

    event: str
    exec_id: str
    code: int
    signal: int
    at_ns: int


class ProcessRow(TypedDict):
    """One process of the machine, pids as seen inside; the agent itself is not among them. `tty` is "pts/0" or ""."""

    pid: int
    ppid: int
    uid: int
    command: str
    started_at_ns: int
    cpu_ns: int
    tty: str


class GuestStats(TypedDict):
    """What the guest's kernel counts: all of its memory and CPUs, and the file system that takes what is written."""

    pids: int
    memory_total_bytes: int
    memory_available_bytes: int
    memory_cached_bytes: int
    cpu_user_ns: int
    cpu_system_ns: int
    disk_total_bytes: int
    disk_free_bytes: int


def exec_exited(row: ExecRow) -> ExecExited:
    """The event for an exec that has ended."""
    return {
        "event": "exec_exited",
        "exec_id": row["exec_id"],
        "code": row["code"],
        "signal": row["signal"],
        "at_ns": row["at_ns"],
    }


def stream_names(*, terminal: bool, stdin: bool) -> tuple[str, ...]:
    """What the descriptors of an `exec` are, in their order."""
    if terminal:
        return ("console",)
    return ("stdin", "stdout", "stderr") if stdin else ("stdout", "stderr")


def check_exec(message: Exec, descriptors: int) -> tuple[str, ...]:
    """The names of the descriptors that came with an `exec`; Invalid when their number or the id is wrong."""
    identity = message.get("exec_id")
    if not isinstance(identity, str) or not identity or len(identity) > 128:
        raise Invalid(f"exec_id {identity!r} is not a name", subject="exec_id")
    process = message.get("process")
    if not isinstance(process, dict):
        raise Invalid("exec without a process", subject="process")
    names = stream_names(terminal=bool(process.get("terminal")), stdin=bool(message.get("stdin")))
    if descriptors != len(names):
        raise Invalid(f"exec needs the descriptors {', '.join(names)}, {descriptors} came", subject="exec")
    return names


def agreed_version(theirs: object) -> int:
    """`versions.agree` for this protocol."""
    return versions.agree(theirs, OLDEST, VERSION, "machine control", "vmcontrol")
