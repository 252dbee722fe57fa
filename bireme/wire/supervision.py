"""What the engine and the supervisor say to each other: one JSON object per SOCK_SEQPACKET message.

    engine                                   supervisor
      hello{version, client, execs}  ------->
                                     <-------  ok{version, pid, instances, execs}; then every unacknowledged exit again
      configure{...}                 ------->
                                     <-------  ok{}
      launch{id, plan, ...}          ------->                      (rid 7)
      ping{}                         ------->                      (rid 8)
                                     <-------  ok{}                (rid 8: answers need not keep the order)
                                     <-------  ok{pid, ...}        (rid 7: the program runs)
                                     <-------  event exited{id, kind, code, signal, oom_killed, at_ns, error}
      acknowledge{id}                ------->
                                     <-------  ok{}

A request is {"rid": n, "op": name, ...}; its reply {"rid": n, "ok": {...}} or {"rid": n, "error": {...}}; an event has
"event" and no rid. Descriptors travel with the message they belong to (SCM_RIGHTS), in the order the operation names.

Operations (fields -> what `ok` holds, then the descriptors):

    hello{version, client, execs}       -> version, pid, instances[InstanceRow], execs[ExecRow]; `execs` names the execs
                                           whose streams this client still reads, the others are drained to nowhere
    configure{bridge{name,mtu}|null, spares{none,bridge}, cgroup_subtree, userns_base, favordynmods}    -> nothing
              and start_limit_s, how long a first process may take to its program (60)
    launch{Launch}                      -> Launched
    acknowledge{id}                     -> nothing; the exit of this instance is not sent again
    signal{id, signum, all}             -> nothing; `all`: every process of the instance
    pause{id}  resume{id}  update{id, limits}  resize{id, rows, cols}      -> nothing
    exec{id, exec_id, plan, terminal, stdin}    -> pid; + [stdin, stdout, stderr] or [console]; when stdin was not asked
                                                   for, the first is a descriptor of /dev/null
    exec_resize{exec_id, rows, cols}  exec_signal{exec_id, signum}  exec_acknowledge{exec_id}     -> nothing
    exec_drain{exec_id}                 -> nothing; the client does not read the streams, they are read to nowhere
    attach{id, stdout, stderr}          -> nothing; + [stream]: stdcopy frames, raw with a terminal; legal before launch
    stdin{id}                           -> nothing; + [fd], with stdin_once the only writing end there is
    close_stdin{id}                     -> nothing; the supervisor's writing end is closed
    delete{id}                          -> nothing; Conflict while it runs; what is left is torn down afterwards
    namespaces{id}                      -> nothing; + [mount namespace, user namespace] of its first process
    list{}  explain{id}  stats{id}  processes{id}  ping{}  shutdown{}
    relay_add{id, entries[{listen, target}]} + [listening sockets]   relay_remove{id}     -> nothing

Events: exited{id, kind, code, signal, oom_killed, at_ns, error}, sent to every client until one acknowledges it or the
instance is deleted, and again after each hello; exec_exited{id, exec_id, code, signal, at_ns}, likewise.

An instance's kind is "container" or "machine". Of a machine the supervisor has the processes on the host: exec, signals
other than SIGKILL, pausing and what runs inside go over the machine's own control socket (wire/vmcontrol), whose path
its row names.

A message longer than INLINE_LIMIT does not fit a packet (a plan with a large environment, a list of a thousand
instances): the packet is then `@SIZE`, and the last descriptor is a sealed memfd with the JSON text. This module does
no I/O: whoever sends gives `encode` a function that makes the memfd, whoever receives gives `decode` one that reads it.

Versions: each side names the newest version it speaks in hello, the lower one counts; below OLDEST is Unsupported.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from bireme.errors import BiremeError, Internal, Invalid, from_wire, to_wire
from bireme.wire import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

VERSION = 3
OLDEST = 1

MACHINES = 2
"""From this version on there are machines beside containers, and rows and events say of which kind an instance is."""

NAMESPACES = 3
"""From this version on there is the operation `namespaces`."""

INLINE_LIMIT = 120_000
"""Bytes of JSON in one packet; the default SO_SNDBUF of 212,992 passes it with room for the kernel's accounting."""

MAX_MESSAGE = 16 << 20
"""Bytes of JSON in one memfd; more is refused."""

RECEIVE_SIZE = INLINE_LIMIT + 1024
"""Buffer that takes any packet."""

OPERATIONS = (
    "hello",
    "configure",
    "launch",
    "acknowledge",
    "signal",
    "pause",
    "resume",
    "update",
    "resize",
    "exec",
    "exec_resize",
    "exec_signal",
    "exec_drain",
    "exec_acknowledge",
    "attach",
    "stdin",
    "close_stdin",
    "delete",
    "list",
    "explain",
    "stats",
    "processes",
    "relay_add",
    "relay_remove",
    "ping",
    "shutdown",
)


class Log(TypedDict):
    """Where an instance's output goes. `driver` is "json-file" or "none"; sizes in bytes, 0 = no rotation."""

    driver: str
    path: str
    max_size_bytes: int
    max_files: int


class Launch(TypedDict):
    """Request `launch`: `plan` is runtime.plan.LaunchPlan or vmm.plan.MachineLaunch, `limits` OCI linux.resources."""

    id: str
    plan: dict[str, Any]
    limits: dict[str, Any]
    log: Log
    terminal: bool
    open_stdin: bool
    stdin_once: bool


class Launched(TypedDict):
    """Answer to `launch`: `pid` as the host sees it, the start in nanoseconds since the epoch; `control` the socket of
    a machine."""

    pid: int
    started_at_ns: int
    slot: int
    cgroups: dict[str, str]
    uid_base: int
    control: str


class InstanceRow(TypedDict):
    """One instance in `hello` and `list`. `state` is "running", "paused" or "exited" (not yet acknowledged or deleted).

    `code` is the exit code or 128 + signal, -1 while it runs; `at_ns` when it ended (nanoseconds since the epoch);
    `error` why, where it did not end by itself; `control` the socket of a machine.
    """

    id: str
    kind: str
    state: str
    pid: int
    slot: int
    started_at_ns: int
    terminal: bool
    open_stdin: bool
    code: int
    signal: int
    oom_killed: bool
    at_ns: int
    error: str
    uid_base: int
    cgroups: dict[str, str]
    control: str


class ExecRow(TypedDict):
    """One exec in `hello`: running (code -1), or ended and not yet acknowledged."""

    id: str
    exec_id: str
    pid: int
    terminal: bool
    code: int
    signal: int
    at_ns: int


class Packet(NamedTuple):
    """One message ready for sendmsg: close `owned` descriptors after sending."""

    data: bytes
    fds: tuple[int, ...]
    owned: tuple[int, ...] = ()


_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def encode(message: Mapping[str, Any], fds: Sequence[int] = (), *, spill: Callable[[bytes], int]) -> Packet:
    """The packet of a message. `spill(text)` returns a sealed memfd; it is called for long messages only.

    Invalid when the message is longer than MAX_MESSAGE.
    """
    return pack(_encoder.encode(message).encode("utf-8", "surrogateescape"), fds, spill=spill)


def pack(text: bytes, fds: Sequence[int] = (), *, spill: Callable[[bytes], int]) -> Packet:
    """`encode` for a message that is JSON text already."""
    if len(text) <= INLINE_LIMIT:
        return Packet(text, tuple(fds))
    if len(text) > MAX_MESSAGE:
        raise Invalid(f"message of {len(text)} bytes, at most {MAX_MESSAGE} are allowed", place="supervision")
    memfd = spill(text)
    return Packet(b"@%d" % len(text), (*fds, memfd), (memfd,))


def decode(
    data: bytes, fds: Sequence[int] = (), *, unspill: Callable[[int, int], bytes]
) -> tuple[dict[str, Any], list[int]]:
    """The message of a packet and the descriptors that belong to it.

    `unspill(fd, limit)` returns the contents of a sealed memfd of at most `limit` bytes and closes it. Invalid when
    the packet is malformed; the descriptors are then still the caller's.
    """
    own = list(fds)
    if data[:1] == b"@":
        if not own or not data[1:].isdigit():
            raise Invalid("long message without its memfd", place="supervision")
        try:
            data = unspill(own.pop(), MAX_MESSAGE)
        except ValueError as error:
            raise Invalid(f"unreadable long message: {error}", place="supervision") from error
    try:
        message = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise Invalid(f"message is not JSON: {error}", place="supervision") from error
    if not isinstance(message, dict):
        raise Invalid("message is not an object", place="supervision")
    return message, own


def request(rid: int, op: str, **fields: Any) -> dict[str, Any]:
    """A request; `rid` is any number the client uses once per connection."""
    return {"rid": rid, "op": op, **fields}


def reply(rid: int, ok: Mapping[str, Any]) -> dict[str, Any]:
    return {"rid": rid, "ok": ok}


def refusal(rid: int, error: BaseException) -> dict[str, Any]:
    """The reply that carries an error, with `stage` and `errno` where a launch failed."""
    described: dict[str, Any] = dict(to_wire(error))
    stage = getattr(error, "stage", "")
    number = getattr(error, "errno", None)
    if stage:
        described["stage"] = stage
    if isinstance(number, int):
        described["errno"] = number
    return {"rid": rid, "error": described}


class Refused(NamedTuple):
    """A decoded error reply: the exception to raise, and where a launch or exec failed ("" and 0 otherwise)."""

    error: BiremeError
    stage: str
    errno: int


def refused(message: Mapping[str, Any]) -> Refused | None:
    """The error of a reply, or None when it is an `ok`."""
    described = message.get("error")
    if described is None:
        return None
    number = described.get("errno", 0) if isinstance(described, dict) else None
    if not isinstance(described, dict) or not isinstance(number, int):
        return Refused(Internal("malformed error reply", place="supervision"), "", 0)
    return Refused(from_wire(described), str(described.get("stage", "")), number)


def kind_of(row: Mapping[str, Any]) -> str:
    """The kind of the instance in a row or event: older supervisors know containers alone and do not say so."""
    return str(row.get("kind", "container"))


def agreed_version(theirs: object) -> int:
    """`versions.agree` for this protocol."""
    return versions.agree(theirs, OLDEST, VERSION, "supervision protocol", "supervision")
