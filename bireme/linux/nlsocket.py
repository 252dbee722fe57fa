"""netlink(7) itself: messages, attributes, acknowledgements and a socket; what travels in them is the caller's.

A message is a plain tuple made by a pure builder; `NetlinkSocket.batch` sends up to a hundred with one sendmsg(2).
The kernel works a batch off in order, inside that call: when it returns every answer is in the receive buffer
already, so no receive here ever waits. Only the last message asks for an acknowledgement, failures are always
reported: a batch of ten that succeeds costs two system calls. A batch is not a transaction: messages after a failed
one are still executed, and the first failure is raised (nftables has transactions of its own).

A socket belongs to the network namespace its creator was in, wherever that process goes afterwards.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Self

from bireme.linux.libc import SyscallError

Message = tuple[int, int, bytes, str]
"""(type, flags, body, what it is about)."""

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300

NLMSG_ERROR = 2
NLMSG_DONE = 3

SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12
_SO_SNDBUFFORCE = 32

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_INT = struct.Struct("=i")
_UINT = struct.Struct("=I")

_RECEIVE_BYTES = 65536
_MOST_ANSWERS = 100
"""As many failures fit into a receive buffer of the default size with room to spare."""
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class NetlinkError(SyscallError):
    """The kernel refused message number `index` of a batch; `detail` is its own explanation, often empty."""

    def __init__(self, errno: int, call: str, subject: str = "", detail: str = "", index: int = 0) -> None:
        super().__init__(errno, call, subject)
        self.detail = detail
        self.index = index

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}: {self.detail}" if self.detail else text


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    length = len(data)
    return _ATTRIBUTE.pack(4 + length, kind) + data + _PADDING[length & 3]


def iter_attributes(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """(type without its flag bits, value) of each attribute; stops at the first one that does not fit."""
    end = len(data)
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            return
        yield kind & 0x3FFF, data[start + 4 : start + length]
        start += (length + 3) & ~3


def pack_message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A netlink message with its header."""
    return _HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body


class NetlinkSocket:
    """A netlink socket of one protocol; not safe for use by two threads at once."""

    def __init__(self, protocol: int, names: dict[int, str] | None = None) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._names = names or {}
        self._sequence = 0
        self._send_bytes = 64 << 10

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def batch(self, messages: Sequence[Message]) -> None:
        """Execute all messages with one send; raises the first failure, after all were tried."""
        errors = self.attempt(messages)
        if errors:
            raise errors[0]

    def attempt(self, messages: Sequence[Message]) -> list[NetlinkError]:
        """Execute all messages, one send for each hundred; the failures in order, with the `index` of their message."""
        if len(messages) <= _MOST_ANSWERS:
            return self._attempt(messages, 0) if messages else []
        errors: list[NetlinkError] = []
        for start in range(0, len(messages), _MOST_ANSWERS):
            errors += self._attempt(messages[start : start + _MOST_ANSWERS], start)
        return errors

    def _attempt(self, messages: Sequence[Message], start: int) -> list[NetlinkError]:
        self._discard()
        first = self._sequence + 1
        last = self._sequence + len(messages)
        self._sequence = last
        parts = [
            pack_message(kind, flags | (NLM_F_REQUEST if number != last else NLM_F_REQUEST | NLM_F_ACK), number, body)
            for number, (kind, flags, body, _) in enumerate(messages, first)
        ]
        self.send(b"".join(parts), messages[0])
        return self._collect(messages, first, last, start)

    def send(self, data: bytes, about: Message) -> None:
        if len(data) > self._send_bytes:
            self._grow(len(data))
        try:
            self._socket.send(data)
        except OSError as error:
            raise self._error(error.errno or 0, about, "", 0) from None

    def _grow(self, size: int) -> None:
        """Make room for one message of `size` bytes, past wmem_max where privilege allows."""
        for option in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, option, size + (size >> 1))
            except OSError:
                continue
            self._send_bytes = size
            return

    def _collect(self, messages: Sequence[Message], first: int, last: int, start: int) -> list[NetlinkError]:
        errors: list[NetlinkError] = []
        while True:
            for kind, flags, sequence, payload in self._receive(messages[-1]):
                if kind != NLMSG_ERROR or not first <= sequence <= last:
                    continue
                code, detail = parse_acknowledgement(flags, payload)
                if code:
                    index = sequence - first
                    errors.append(self._error(code, messages[index], detail, start + index))
                if sequence == last:
                    return errors

    def _error(self, code: int, about: Message, detail: str, index: int) -> NetlinkError:
        return NetlinkError(code, self._names.get(about[0], f"netlink message {about[0]}"), about[3], detail, index)

    def _receive(self, about: Message) -> list[tuple[int, int, int, bytes]]:
        """The messages of one datagram: (type, flags, sequence, payload). Never waits: the kernel has answered."""
        try:
            data = self._receive_raw()
        except OSError as error:
            raise self._error(error.errno or 0, about, "no answer", 0) from None
        return list(iter_messages(data))

    def _receive_raw(self) -> bytes:
        return self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)

    def _discard(self) -> None:
        """Drop what an interrupted earlier exchange left in the buffer."""
        while True:
            try:
                self._receive_raw()
            except BlockingIOError:
                return
            except OSError:
                continue

    def dump(self, message: Message) -> list[tuple[int, bytes]]:
        """All parts, (type, payload), of the answer to a dump request; starts anew when the table changed meanwhile."""
        for _ in range(8):
            parts, consistent = self._dump_once(message)
            if consistent:
                break
        return parts

    def _dump_once(self, message: Message) -> tuple[list[tuple[int, bytes]], bool]:
        kind, flags, body, _ = message
        self._discard()
        self._sequence += 1
        self.send(pack_message(kind, flags | NLM_F_REQUEST | NLM_F_DUMP, self._sequence, body), message)
        parts: list[tuple[int, bytes]] = []
        consistent = True
        while True:
            for answer, answer_flags, sequence, payload in self._receive(message):
                if sequence != self._sequence:
                    continue
                if answer_flags & NLM_F_DUMP_INTR:
                    consistent = False
                if answer in (NLMSG_ERROR, NLMSG_DONE):
                    code = -_INT.unpack_from(payload)[0] if len(payload) >= 4 else 0
                    if code > 0:
                        raise self._error(code, message, "", 0)
                    return parts, consistent
                parts.append((answer, payload))

    def get(self, message: Message) -> tuple[int, bytes]:
        """The single answer, (type, payload), to a get request; NetlinkError (ENODEV, ENOENT) when there is none."""
        kind, flags, body, _ = message
        self._discard()
        self._sequence += 1
        self.send(pack_message(kind, flags | NLM_F_REQUEST, self._sequence, body), message)
        while True:
            for answer, answer_flags, sequence, payload in self._receive(message):
                if sequence != self._sequence:
                    continue
                if answer == NLMSG_ERROR:
                    code, detail = parse_acknowledgement(answer_flags, payload)
                    raise self._error(code, message, detail, 0)
                return answer, payload


def iter_messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, payload) of each message of a datagram; stops at one that does not fit."""
    offset, end = 0, len(data)
    while offset + 16 <= end:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > end:
            return
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def parse_acknowledgement(flags: int, payload: bytes) -> tuple[int, str]:
    """(errno or 0, the kernel's explanation) of an NLMSG_ERROR payload."""
    if len(payload) < 20:
        return errno.EIO, "short acknowledgement"
    code = -_INT.unpack_from(payload)[0]
    if not flags & NLM_F_ACK_TLVS:
        return code, ""
    start = 20
    if not flags & NLM_F_CAPPED:
        start = 4 + ((_UINT.unpack_from(payload, 4)[0] + 3) & ~3)
    detail = ""
    for kind, value in iter_attributes(payload, start):
        if kind == 1:
            detail = value.rstrip(b"\0").decode("utf-8", "replace")
    return code, detail
