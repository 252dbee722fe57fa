"""nf_tables over nfnetlink: whole tables, rules and map elements in one atomic transaction.

A transaction is one datagram: BATCH_BEGIN, the messages, BATCH_END. The kernel applies all of it or nothing, and
packets see either the old ruleset or the new one. Replacing a whole table is therefore safe under traffic: add it (so
that it exists), delete it, add it again with its content. Connection tracking is not touched by that.

The builders follow the uapi header linux/netfilter/nf_tables.h: numbers are big endian in attributes, but what meta
and fib load into registers is in host order. A rule is a list of expressions working on registers; here register
numbers count from NFT_REG32_00, four bytes each, and a concatenated key takes one of them per part, so its parts are
padded to four bytes. A key type is opaque to the kernel; it is set so that `nft list` shows what a person would write.

`generation` changes with every change that anybody makes to the rules of the namespace. Given to `transaction`, it
makes the kernel refuse (ERESTART) when somebody else was there meanwhile: that is how a caller notices that its table
may have been flushed, without looking at it each time.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bireme.linux.nlsocket import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Message,
    NetlinkError,
    NetlinkSocket,
    attribute,
    iter_attributes,
    iter_messages,
    pack_message,
    parse_acknowledgement,
)

NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 1, 2, 10
NF_INET_PRE_ROUTING, NF_INET_FORWARD, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING = 0, 2, 3, 4
NF_DROP, NF_ACCEPT, NFT_JUMP, NFT_GOTO, NFT_RETURN = 0, 1, -3, -4, -5

NFT_SET_INTERVAL, NFT_SET_MAP = 0x4, 0x8
NFT_SET_ELEM_INTERVAL_END = 0x1

NFT_META_IIFNAME, NFT_META_OIFNAME, NFT_META_NFPROTO, NFT_META_L4PROTO = 6, 7, 15, 16
NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER = 1, 2
NFT_CT_STATE, NFT_CT_STATUS = 0, 2
CT_ESTABLISHED_OR_RELATED = 0x2 | 0x4
IPS_DST_NAT = 0x20
NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR = 3, 2
RTN_LOCAL = 2

TYPE_IPV4, TYPE_IPV6, TYPE_PROTOCOL, TYPE_SERVICE, TYPE_IFNAME = 7, 8, 12, 13, 41

_SUBSYSTEM = 10
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN, _NEWRULE, _GETRULE = 0, 1, 2, 3, 4, 6, 7
_NEWSET, _NEWSETELEM, _GETSETELEM, _DELSETELEM, _NEWGEN, _GETGEN = 9, 12, 13, 14, 15, 16
_BATCH_BEGIN, _BATCH_END, _BATCH_GENID = 16, 17, 1
_NAMES = {
    (_SUBSYSTEM << 8) | kind: f"NFT_MSG_{name}"
    for kind, name in (
        (_NEWTABLE, "NEWTABLE"),
        (_GETTABLE, "GETTABLE"),
        (_DELTABLE, "DELTABLE"),
        (_NEWCHAIN, "NEWCHAIN"),
        (_GETCHAIN, "GETCHAIN"),
        (_NEWRULE, "NEWRULE"),
        (_GETRULE, "GETRULE"),
        (_NEWSET, "NEWSET"),
        (_NEWSETELEM, "NEWSETELEM"),
        (_GETSETELEM, "GETSETELEM"),
        (_DELSETELEM, "DELSETELEM"),
        (_GETGEN, "GETGEN"),
    )
}
_NESTED = 0x8000
_ELEMENTS_BYTES = 48 << 10
_HOST_ORDER_KEY = struct.pack("=BBI", 0, 4, 1)
"""A note in the user data that `nft` needs to show names of interfaces."""
_BE32 = struct.Struct(">I")
_NFGEN = struct.Struct(">BBH")


class Element(NamedTuple):
    """One element of a set or, with `data`, of a map."""

    key: bytes
    data: bytes = b""
    flags: int = 0


class BaseChain(NamedTuple):
    """A chain that hangs on a hook; `policy` is NF_ACCEPT or NF_DROP, `kind` "filter", "nat" or "route"."""

    family: int
    table: str
    name: str
    kind: str
    hook: int
    policy: int


class NfTables(NetlinkSocket):
    """A socket for the rules of the caller's current network namespace; needs CAP_NET_ADMIN over it."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER, _NAMES)

    def transaction(self, messages: Sequence[Message], generation: int = 0) -> None:
        """Apply all messages or none; NetlinkError of the first one refused, with `index` -1 when it was the whole.

        With a `generation` the kernel answers ERESTART when the rules of the namespace are not at that one.
        """
        self._discard()
        first = self._sequence + 1
        self._sequence = first + len(messages) + 1
        head = _NFGEN.pack(0, 0, _SUBSYSTEM)
        begin = head + (_u32(_BATCH_GENID, generation) if generation else b"")
        parts = [pack_message(_BATCH_BEGIN, NLM_F_REQUEST, first, begin)]
        last = len(messages) - 1
        for index, (kind, flags, body, _) in enumerate(messages):
            flags |= NLM_F_REQUEST if index != last else NLM_F_REQUEST | NLM_F_ACK
            parts.append(pack_message(kind, flags, first + 1 + index, body))
        parts.append(pack_message(_BATCH_END, NLM_F_REQUEST, self._sequence, head))
        whole: Message = (_BATCH_BEGIN, 0, b"", "transaction")
        self.send(b"".join(parts), whole)
        self._settle(messages, first)

    def _settle(self, messages: Sequence[Message], first: int) -> None:
        """Read every answer (all are there when send returns) and raise the first failure."""
        answered = False
        failure: NetlinkError | None = None
        for kind, flags, sequence, payload in self._answers():
            if kind != NLMSG_ERROR or not first <= sequence <= self._sequence:
                continue
            code, detail = parse_acknowledgement(flags, payload)
            answered = True
            if code and failure is None:
                index = sequence - first - 1
                about = messages[index] if 0 <= index < len(messages) else (_BATCH_BEGIN, 0, b"", "transaction")
                failure = self._error(code, about, detail, index)
        if failure is not None:
            raise failure
        if not answered and messages:
            raise self._error(errno.ENOBUFS, messages[-1], "the answer was lost", -1)

    def _answers(self) -> Iterator[tuple[int, int, int, bytes]]:
        while True:
            try:
                data = self._receive_raw()
            except BlockingIOError:
                return
            except OSError:
                continue  # more failures than the buffer holds: the first ones are in it
            yield from iter_messages(data)

    def generation(self) -> int:
        """The number of the namespace's current ruleset."""
        kind = (_SUBSYSTEM << 8) | _GETGEN
        _, payload = self.get((kind, 0, _NFGEN.pack(0, 0, 0), "generation"))
        found = dict(iter_attributes(payload, 4))
        return _BE32.unpack(found[1])[0] if 1 in found else 0

    def tables(self, family: int = NFPROTO_INET) -> list[str]:
        """Names of the tables of a family."""
        parts = self.dump(((_SUBSYSTEM << 8) | _GETTABLE, 0, _NFGEN.pack(family, 0, 0), "tables"))
        return [dict(iter_attributes(part, 4))[1].rstrip(b"\0").decode() for _, part in parts]

    def base_chains(self) -> list[BaseChain]:
        """The chains of everybody's tables that hang on a hook."""
        parts = self.dump(((_SUBSYSTEM << 8) | _GETCHAIN, 0, _NFGEN.pack(0, 0, 0), "chains"))
        return [chain for _, part in parts if (chain := _parse_base_chain(part)) is not None]

    def rules(self, family: int, table: str) -> list[bytes]:
        """The rules of a table as the kernel spells them, handles included: equal only when nobody changed them."""
        body = _NFGEN.pack(family, 0, 0) + _string(1, table)
        try:
            parts = self.dump(((_SUBSYSTEM << 8) | _GETRULE, 0, body, table))
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return []
            raise
        name = table.encode() + b"\0"
        found = [part[4:] for _, part in parts]  # the header carries the ruleset's generation
        return [rule for rule in found if dict(iter_attributes(rule)).get(1) == name]

    def elements(self, family: int, table: str, name: str) -> list[Element]:
        """The elements of a set or map; NetlinkError ENOENT when it or its table is gone."""
        body = _NFGEN.pack(family, 0, 0) + _string(1, table) + _string(2, name)
        parts = self.dump(((_SUBSYSTEM << 8) | _GETSETELEM, 0, body, f"{table} {name}"))
        found: list[Element] = []
        for _, part in parts:
            listed = dict(iter_attributes(part, 4)).get(3, b"")
            found.extend(_parse_element(raw) for _, raw in iter_attributes(listed))
        return found


def _parse_base_chain(part: bytes) -> BaseChain | None:
    found = dict(iter_attributes(part, 4))
    if 4 not in found:
        return None
    table, name, kind = (found.get(number, b"").rstrip(b"\0").decode() for number in (1, 3, 7))
    hook = _BE32.unpack(dict(iter_attributes(found[4]))[1])[0]
    return BaseChain(part[0], table, name, kind, hook, _BE32.unpack(found[5])[0] if 5 in found else NF_ACCEPT)


def _parse_element(raw: bytes) -> Element:
    found = dict(iter_attributes(raw))
    flags = _BE32.unpack(found[3])[0] if 3 in found else 0
    return Element(_data_value(found.get(1, b"")), _data_value(found.get(2, b"")), flags)


def _data_value(raw: bytes) -> bytes:
    return dict(iter_attributes(raw)).get(1, b"")


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, _BE32.pack(value & 0xFFFFFFFF))


def _string(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _nest(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def _message(kind: int, family: int, flags: int, body: bytes, about: str) -> Message:
    return (_SUBSYSTEM << 8) | kind, flags, _NFGEN.pack(family, 0, 0) + body, about


def add_table(family: int, name: str) -> Message:
    """A table; no error when it exists."""
    return _message(_NEWTABLE, family, NLM_F_CREATE, _string(1, name) + _u32(2, 0), f"table {name}")


def delete_table(family: int, name: str) -> Message:
    """Remove a table and everything in it; ENOENT when it does not exist."""
    return _message(_DELTABLE, family, 0, _string(1, name), f"table {name}")


def add_chain(family: int, table: str, name: str) -> Message:
    """A chain that other chains jump to."""
    return _message(_NEWCHAIN, family, NLM_F_CREATE, _string(1, table) + _string(3, name), f"chain {name}")


def add_base_chain(
    family: int, table: str, name: str, *, kind: str, hook: int, priority: int, policy: int = NF_ACCEPT
) -> Message:
    """A chain of a hook; `kind` is "filter" or "nat", `policy` what becomes of packets that no rule decided on."""
    body = _string(1, table) + _string(3, name)
    body += _nest(4, _u32(1, hook), _u32(2, priority)) + _u32(5, policy) + _string(7, kind)
    return _message(_NEWCHAIN, family, NLM_F_CREATE, body, f"chain {name}")


def add_rule(family: int, table: str, chain: str, expressions: Iterable[bytes]) -> Message:
    """A rule at the end of a chain."""
    body = _string(1, table) + _string(2, chain) + _nest(4, *(_nest(1, one) for one in expressions))
    return _message(_NEWRULE, family, NLM_F_CREATE | NLM_F_APPEND, body, f"rule in {chain}")


def add_set(
    family: int,
    table: str,
    name: str,
    key: Sequence[tuple[int, int]],
    data: Sequence[tuple[int, int]] = (),
    *,
    flags: int = 0,
    number: int = 1,
) -> Message:
    """A set or, with `data`, a map. `key` and `data` are (type, bytes) of each part; `number` differs in a batch."""
    body = _string(1, table) + _string(2, name) + _u32(3, flags | (NFT_SET_MAP if data else 0))
    body += _u32(4, _joined_type(key)) + _u32(5, _joined_length(key))
    if data:
        body += _u32(6, _joined_type(data)) + _u32(7, _joined_length(data))
    if not data and all(kind == TYPE_IFNAME for kind, _ in key):
        body += attribute(13, _HOST_ORDER_KEY)
    return _message(_NEWSET, family, NLM_F_CREATE, body + _u32(10, number), f"set {name}")


def _joined_type(parts: Sequence[tuple[int, int]]) -> int:
    joined = 0
    for kind, _ in parts:
        joined = joined << 6 | kind
    return joined


def _joined_length(parts: Sequence[tuple[int, int]]) -> int:
    if len(parts) == 1:
        return parts[0][1]
    return sum((length + 3) & ~3 for _, length in parts)


def add_elements(family: int, table: str, name: str, elements: Iterable[Element]) -> list[Message]:
    """Put elements in; one that is there already with the same data is no error. Messages of at most 64 KiB."""
    return _elements(_NEWSETELEM, NLM_F_CREATE, family, table, name, elements)


def delete_elements(family: int, table: str, name: str, elements: Iterable[Element]) -> list[Message]:
    """Take elements out (the key decides); ENOENT when one is not there."""
    return _elements(_DELSETELEM, 0, family, table, name, elements)


def _elements(kind: int, flags: int, family: int, table: str, name: str, elements: Iterable[Element]) -> list[Message]:
    head = _string(1, table) + _string(2, name)
    messages: list[Message] = []
    parts: list[bytes] = []
    size = 0
    for element in elements:
        packed = _pack_element(element)
        if size + len(packed) > _ELEMENTS_BYTES:
            messages.append(_message(kind, family, flags, head + _nest(3, *parts), f"elements of {name}"))
            parts, size = [], 0
        parts.append(packed)
        size += len(packed)
    if parts:
        messages.append(_message(kind, family, flags, head + _nest(3, *parts), f"elements of {name}"))
    return messages


def _pack_element(element: Element) -> bytes:
    body = _nest(1, attribute(1, element.key))
    if element.data:
        body += _nest(2, attribute(1, element.data))
    if element.flags:
        body += _u32(3, element.flags)
    return _nest(1, body)


def _expression(name: str, *parts: bytes) -> bytes:
    return _string(1, name) + _nest(2, *parts)


def _register(number: int) -> int:
    """NFT_REG32_00 + number; register 0 of the kernel is the verdict."""
    return 8 + number


def meta(key: int, register: int = 0) -> bytes:
    """Load a property of the packet: interface names take 16 bytes (four registers)."""
    return _expression("meta", _u32(1, _register(register)), _u32(2, key))


def payload(base: int, offset: int, length: int, register: int = 0) -> bytes:
    """Load bytes of a header; the rule does not match when the packet has no such header."""
    return _expression("payload", _u32(1, _register(register)), _u32(2, base), _u32(3, offset), _u32(4, length))


def connection(key: int, register: int = 0) -> bytes:
    """Load a property of the tracked connection, 4 bytes in host order."""
    return _expression("ct", _u32(1, _register(register)), _u32(2, key))


def fib_address_type(register: int = 0) -> bytes:
    """Load the type of the destination address (RTN_LOCAL...), 4 bytes in host order."""
    result, flags = _u32(2, NFT_FIB_RESULT_ADDRTYPE), _u32(3, NFTA_FIB_F_DADDR)
    return _expression("fib", _u32(1, _register(register)), result, flags)


def equals(data: bytes, register: int = 0, *, negate: bool = False) -> bytes:
    """Go on when the register holds `data` (or does not)."""
    operation = _u32(2, 1 if negate else 0)
    return _expression("cmp", _u32(1, _register(register)), operation, _nest(3, attribute(1, data)))


def mask(bits: bytes, register: int = 0) -> bytes:
    """The register AND `bits`."""
    length = len(bits)
    registers = _u32(1, _register(register)) + _u32(2, _register(register))
    masks = _nest(4, attribute(1, bits)) + _nest(5, attribute(1, bytes(length)))
    return _expression("bitwise", registers, _u32(3, length), masks)


def lookup(name: str, register: int = 0, *, result: int | None = None, negate: bool = False) -> bytes:
    """Go on when the key at `register` is in the set (or is not); `result` takes a map's data."""
    parts = _string(1, name) + _u32(2, _register(register))
    if result is not None:
        parts += _u32(3, _register(result))
    if negate:
        parts += _u32(5, 1)
    return _expression("lookup", parts)


def verdict(code: int, chain: str = "") -> bytes:
    """End with NF_ACCEPT, NF_DROP, NFT_RETURN, or go to another chain."""
    parts = _u32(1, code) + (_string(2, chain) if chain else b"")
    return _expression("immediate", _u32(1, 0), _nest(2, _nest(2, parts)))


def destination_nat(family: int, address_register: int, port_register: int) -> bytes:
    """Send the connection to the address and port in the registers."""
    registers = _u32(3, _register(address_register)) + _u32(5, _register(port_register))
    return _expression("nat", _u32(1, 1), _u32(2, family), registers)


def masquerade() -> bytes:
    """Give the connection the address of the interface it leaves by."""
    return _expression("masq")
