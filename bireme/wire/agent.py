"""What the VMM's link process and the agent (process 1 of a microVM) say to each other: frames on a control connection.

    agent (guest, CID 3)                              link (host, CID 2)
      connect to port 1024 -------------------------> exactly one control connection is accepted
      hello{version, oldest, software, kernel} ------>
                        <--------------------------- configure{version, clock_ns, entropy, GuestConfig, tokens} (rid 1)
      connect to port 1025, TOKEN, bytes ===========> stdout       one connection per stream: its credit is the
      connect to port 1025, TOKEN, <================ stdin         back-pressure of that stream alone
      ok{pid} (rid 1) ------------------------------>              the program was executed
        or error{stage, errno, subject, message} --->              and the machine ends
                        <--------------------------- exec{number, process, tokens} (rid 2)
      ok{pid} (rid 2), streams as above ------------>
                        <--------------------------- processes{} (rid 3)    ping{} (rid 4)
      ok{} (rid 4), ok{processes} (rid 3) ---------->              answers need not keep the order
      exited{number, code, signal} ----------------->              after everything it wrote is on its streams
                        <--------------------------- shutdown{}
      kills, unmounts, powers off                                  also when the control connection ends

A frame is a head of 12 bytes, little-endian, and a body:

     0        4        6        8        12
    | length | kind   | zero   | rid    | body: `length` bytes of fields ...

Fields are those of wire/fields.py; their names, tags and kinds of value are one flat table (FIELDS), the same for both
sides (guest/agent_wire.h).

Requests carry a rid the host chose, answers repeat it, events have rid 0. `number` names a process: 0 is the machine's
first one, the others are chosen by the host. A stream is claimed by its TOKEN, 16 random bytes, so that no process in
the guest can pose as one. The end of a stream is the end of its connection in that direction; a terminal has one
stream for both directions.

Requests to the agent (beside `configure` and `exec`):

    signal{number, signum, all}     `all`: every process of the machine
    resize{number, rows, columns}   processes{} -> processes[ProcessRow], truncated
    clock{clock_ns}  ping{}         stats{} -> GuestStats (both rows: wire/vmcontrol)      shutdown{}: no answer

What the agent says is hostile input. A frame longer than MAX_FROM_AGENT cannot be skipped safely: FrameError, the
machine ends. A body that does not decode is Invalid and the frame alone is dropped.

Versions: the agent says the newest and oldest it speaks, the host answers with the one that counts in `configure`.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from bireme.errors import BiremeError, Invalid, Unsupported
from bireme.wire.fields import Field, Table, Value

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
OLDEST = 1

HOST_CID = 2
GUEST_CID = 3
CONTROL_PORT = 1024
STREAM_PORT = 1025

MAX_FROM_AGENT = 256 << 10
"""Bytes of a body the host takes: a list of some thousand processes."""

MAX_TO_AGENT = 4 << 20
"""Bytes of a body the agent takes: arguments and environment are at most 2 MiB in Linux."""

TOKEN_BYTES = 16
ENTROPY_BYTES = 64

HEAD = struct.Struct("<IHHI")


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    CONFIGURE = 2
    EXEC = 3
    SIGNAL = 4
    RESIZE = 5
    PROCESSES = 6
    STATS = 7
    CLOCK = 8
    PING = 9
    SHUTDOWN = 10
    OK = 32
    ERROR = 33
    EXITED = 34


FROM_AGENT: dict[Kind, tuple[str, ...]] = {
    Kind.HELLO: ("version", "oldest", "software", "kernel"),
    Kind.OK: (),
    Kind.ERROR: ("stage", "errno", "subject", "message"),
    Kind.EXITED: ("number", "code", "signal"),
}
"""The kinds an agent may send, and the fields that must be there."""


FIELDS: dict[str, Field] = {
    # hello, configure
    "version": Field(1, Value.NUMBER),
    "oldest": Field(2, Value.NUMBER),
    "software": Field(3, Value.TEXT),
    "kernel": Field(4, Value.TEXT),
    "clock_ns": Field(5, Value.NUMBER),
    "entropy": Field(6, Value.BYTES),
    "stdin_token": Field(7, Value.BYTES),
    "stdout_token": Field(8, Value.BYTES),
    "stderr_token": Field(9, Value.BYTES),
    "console_token": Field(10, Value.BYTES),
    # the machine
    "hostname": Field(16, Value.TEXT),
    "domainname": Field(17, Value.TEXT),
    "root": Field(18, Value.GROUP),
    "interfaces": Field(19, Value.GROUP, many=True),
    "files": Field(20, Value.GROUP, many=True),
    "mounts": Field(21, Value.GROUP, many=True),
    "sysctls": Field(22, Value.GROUP, many=True),
    "shm_size_bytes": Field(23, Value.NUMBER),
    "process": Field(24, Value.GROUP),
    "lower": Field(25, Value.GROUP, many=True),
    "upper": Field(26, Value.GROUP),
    "device": Field(27, Value.TEXT),
    "type": Field(28, Value.TEXT),
    "read_only": Field(29, Value.NUMBER),
    "name": Field(30, Value.TEXT),
    "mac": Field(31, Value.TEXT),
    "address": Field(32, Value.TEXT),
    "prefix_len": Field(33, Value.NUMBER),
    "gateway": Field(34, Value.TEXT),
    "mtu": Field(35, Value.NUMBER),
    "path": Field(36, Value.TEXT),
    "text": Field(37, Value.TEXT),
    "mode": Field(38, Value.NUMBER),
    "kind": Field(39, Value.TEXT),
    "target": Field(40, Value.TEXT),
    "size_bytes": Field(41, Value.NUMBER),
    "key": Field(42, Value.TEXT),
    "value": Field(43, Value.TEXT),
    # a process
    "args": Field(64, Value.TEXT, many=True),
    "env": Field(65, Value.TEXT, many=True),
    "cwd": Field(66, Value.TEXT),
    "user": Field(67, Value.TEXT),
    "groups": Field(68, Value.TEXT, many=True),
    "umask": Field(69, Value.NUMBER),
    "terminal": Field(70, Value.NUMBER),
    "rows": Field(71, Value.NUMBER),
    "columns": Field(72, Value.NUMBER),
    "rlimits": Field(73, Value.GROUP, many=True),
    "capabilities": Field(74, Value.GROUP),
    "no_new_privileges": Field(75, Value.NUMBER),
    "oom_score_adj": Field(76, Value.NUMBER),
    "number": Field(77, Value.NUMBER),
    "soft": Field(78, Value.NUMBER),
    "hard": Field(79, Value.NUMBER),
    "bounding": Field(80, Value.NUMBER),
    "effective": Field(81, Value.NUMBER),
    "permitted": Field(82, Value.NUMBER),
    "inheritable": Field(83, Value.NUMBER),
    "ambient": Field(84, Value.NUMBER),
    # answers and events
    "pid": Field(96, Value.NUMBER),
    "stage": Field(97, Value.TEXT),
    "errno": Field(98, Value.NUMBER),
    "subject": Field(99, Value.TEXT),
    "message": Field(100, Value.TEXT),
    "code": Field(101, Value.NUMBER),
    "signal": Field(102, Value.NUMBER),
    "signum": Field(104, Value.NUMBER),
    "all": Field(105, Value.NUMBER),
    "processes": Field(106, Value.GROUP, many=True),
    "truncated": Field(107, Value.NUMBER),
    "ppid": Field(108, Value.NUMBER),
    "uid": Field(109, Value.NUMBER),
    "command": Field(110, Value.TEXT),
    "started_at_ns": Field(111, Value.NUMBER),
    "cpu_ns": Field(112, Value.NUMBER),
    "tty": Field(113, Value.TEXT),
    "pids": Field(114, Value.NUMBER),
    "memory_total_bytes": Field(115, Value.NUMBER),
    "memory_available_bytes": Field(116, Value.NUMBER),
    "memory_cached_bytes": Field(117, Value.NUMBER),
    "cpu_user_ns": Field(118, Value.NUMBER),
    "cpu_system_ns": Field(119, Value.NUMBER),
    "disk_total_bytes": Field(120, Value.NUMBER),
    "disk_free_bytes": Field(121, Value.NUMBER),
}
"""Every name that may stand in a message; tests compare it with guest/agent_wire.h."""

_table = Table(FIELDS)


class Disk(TypedDict):
    """A block device as the guest sees it ("/dev/vda") and its file system ("erofs" or "ext4")."""

    device: str
    type: str


class Root(TypedDict):
    """The root file system: an overlay of read-only lowers, topmost first, and a writable disk.

    Without `upper` what is written lies in the guest's memory. `read_only` is the root as the processes see it.
    """

    lower: list[Disk]
    upper: Disk | None
    read_only: bool


class Interface(TypedDict):
    """`name` is what the interface found by its `mac` is called inside; address and gateway are IPv4 or IPv6 text."""

    name: str
    mac: str
    address: str
    prefix_len: int
    gateway: str
    mtu: int


class File(TypedDict):
    """A small text file (at most 1 MiB) laid over `path` in the root: hosts, hostname, resolv.conf."""

    path: str
    text: str
    mode: int


class Mount(TypedDict):
    """A file system of the guest's own; `size_bytes` 0 is the kernel's default (half of the memory)."""

    kind: Literal["tmpfs"]
    target: str
    size_bytes: int
    mode: int


class Capabilities(TypedDict):
    """Bit masks of the five sets; what the guest's kernel does not have is left out of them."""

    bounding: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int


class Process(TypedDict):
    """One process. `user` is "", "user" or "user:group" by name or number, `groups` more groups, looked up inside.

    `rlimits` rows are [number, soft, hard], -1 = unlimited. `capabilities` None: what the user has in Linux without a
    container (root has all). `oom_score_adj` None: left alone. `rows`, `columns` 0: unknown.
    """

    args: list[str]
    env: list[str]
    cwd: str
    user: str
    groups: list[str]
    umask: int
    terminal: bool
    rows: int
    columns: int
    rlimits: list[list[int]]
    capabilities: Capabilities | None
    no_new_privileges: bool
    oom_score_adj: int | None


class GuestConfig(TypedDict):
    """What the agent makes of the machine. `stdin`: the first process has an input, else it reads /dev/null."""

    hostname: str
    domainname: str
    root: Root
    interfaces: list[Interface]
    files: list[File]
    mounts: list[Mount]
    sysctls: dict[str, str]
    shm_size_bytes: int
    process: Process
    stdin: bool


class Tokens(TypedDict, total=False):
    """The names of a process's streams; those that are left out do not exist. A terminal has `console` alone."""

    stdin: bytes
    stdout: bytes
    stderr: bytes
    console: bytes


class Frame(NamedTuple):
    """A frame whose body is not decoded yet."""

    kind: int
    rid: int
    body: bytes


class Message(NamedTuple):
    """A decoded frame from an agent. `fields` holds the required ones of FROM_AGENT."""

    kind: Kind
    rid: int
    fields: dict[str, Any]


class FrameError(BiremeError):
    """The bytes cannot be frames; where the next one begins is unknown."""

    kind = "invalid"


def encode(kind: Kind, rid: int, fields: Mapping[str, Any], *, most: int = MAX_TO_AGENT) -> bytes:
    """One frame. KeyError for a name that is not in FIELDS; Invalid for a text with NUL, a number beyond 64 bits, or a
    body of more than `most` bytes."""
    body = _table.pack(fields)
    if len(body) > most:
        raise Invalid(f"message of {len(body)} bytes to the agent, at most {most} are allowed", place="agent")
    return HEAD.pack(len(body), kind, 0, rid) + body


def decode(data: bytes) -> dict[str, Any]:
    """The fields of a body; Invalid when it is malformed."""
    return _table.unpack(data)


def parse(frame: Frame) -> Message:
    """A frame from an agent, checked; Invalid when it is none an agent may send or lacks a field."""
    try:
        kind = Kind(frame.kind)
        required = FROM_AGENT[kind]
    except (ValueError, KeyError):
        raise Invalid(f"the agent sent a message of kind {frame.kind}", place="agent") from None
    fields = decode(frame.body)
    absent = [name for name in required if name not in fields]
    if absent:
        raise Invalid(f"{kind.name.lower()} without {', '.join(absent)}", place="agent")
    return Message(kind, frame.rid, fields)


class Decoder:
    """Cuts a byte stream into frames; holds at most one unfinished frame."""

    def __init__(self, most: int = MAX_FROM_AGENT) -> None:
        self._most = most
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. FrameError when a head cannot be one: nothing after it can be read."""
        rest = self._rest
        rest += data
        frames: list[Frame] = []
        at = 0
        while len(rest) - at >= HEAD.size:
            length, kind, zero, rid = HEAD.unpack_from(rest, at)
            if length > self._most or zero:
                raise FrameError(f"the agent sent a head that announces {length} bytes", place="agent")
            end = at + HEAD.size + length
            if end > len(rest):
                break
            frames.append(Frame(kind, rid, bytes(rest[at + HEAD.size : end])))
            at = end
        del rest[:at]
        return frames


def configure_fields(
    config: GuestConfig, tokens: Tokens, *, version: int, clock_ns: int, entropy: bytes
) -> dict[str, Any]:
    """The fields of `configure`."""
    return {
        "version": version,
        "clock_ns": clock_ns,
        "entropy": entropy,
        **_token_fields(tokens),
        "hostname": config["hostname"],
        "domainname": config["domainname"],
        "root": config["root"],
        "interfaces": config["interfaces"],
        "files": config["files"],
        "mounts": config["mounts"],
        "sysctls": [{"key": key, "value": value} for key, value in config["sysctls"].items()],
        "shm_size_bytes": config["shm_size_bytes"],
        "process": process_fields(config["process"]),
    }


def exec_fields(number: int, process: Process, tokens: Tokens) -> dict[str, Any]:
    """The fields of `exec`."""
    return {"number": number, "process": process_fields(process), **_token_fields(tokens)}


def _token_fields(tokens: Tokens) -> dict[str, bytes]:
    return {f"{name}_token": value for name, value in tokens.items() if isinstance(value, bytes)}


def process_fields(process: Process) -> dict[str, Any]:
    """A process as it travels. Invalid when it has no arguments or its directory is relative."""
    if not process["args"]:
        raise Invalid("no command specified", subject="args")
    if not process["cwd"].startswith("/"):
        raise Invalid(
            f"the working directory '{process['cwd']}' is invalid, it needs to be an absolute path",
            subject=process["cwd"],
        )
    return {
        **process,
        "rlimits": [{"number": number, "soft": soft, "hard": hard} for number, soft, hard in process["rlimits"]],
    }


def agreed_version(theirs: int, their_oldest: int) -> int:
    """The version both sides speak; Unsupported when there is none."""
    version = min(theirs, VERSION)
    if version < OLDEST or version < their_oldest:
        raise Unsupported(
            f"the agent speaks protocol versions {their_oldest} to {theirs}, this program {OLDEST} to {VERSION}",
            place="agent",
            hint="start the machine again: its agent comes with the engine",
        )
    return version
