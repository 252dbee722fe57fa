"""The rules of one engine: one nf_tables table, `bireme_<tag>`, of constant size.

Networks and published ports are elements of sets and maps, never rules, so a packet's way through the table does not
grow with the number of instances and publishing a port is one small transaction:

    guard        prerouting, raw     from or to 127/8 out of a bridge: dropped (route_localnet would let it in)
    prerouting   nat                 to an address of this host, not 127/8 -> published
    output       nat                 the same for the host's own connections, 127/8 included -> published
    published                        (address . protocol . port), then (protocol . port): send to the endpoint
    forward      filter              what leaves through a bridge -> inward
    inward                           established, published, same bridge: accept; all else is dropped
    postrouting  nat                 bridge subnets leaving the bridges, hairpins and 127/8 take the host's address

An accept here is final for this table alone: a drop in somebody else's base chain (a firewall with forward policy
drop) still drops. Nothing outside the table is read or changed. Isolation between networks is the last line of inward:
a packet may enter a bridge as an answer, through a published port, or from the same bridge. That also closes the way
to unpublished ports, and to published ones by the endpoint's own address, for neighbours who route to the subnet.

The prerouting rule skips 127/8 because the kernel's own check for such packets from outside comes after it: without
the exception a neighbour on the wire could reach a port published on 127.0.0.1 only.

IPv4 today. IPv6 is two more maps with `ipv6_addr` in place of `ipv4_addr`; the chains are of family inet already.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import threading
from collections.abc import Iterable
from typing import NamedTuple

from bireme.errors import Unavailable
from bireme.linux import nftables as nft
from bireme.linux.nftables import Element, NfTables
from bireme.linux.nlsocket import Message, NetlinkError
from bireme.oci.digest import sha256_hex

_FAMILY = nft.NFPROTO_INET
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_ANY = frozenset({"", "0.0.0.0"})
_SETS = ("bridges", "same_bridge", "subnets4", "ports4", "any_ports4")

_PRIORITY_RAW, _PRIORITY_DSTNAT, _PRIORITY_FILTER, _PRIORITY_SRCNAT = -300, -100, 0, 100
_DESTINATION, _SOURCE = 16, 12


class Network(NamedTuple):
    """A bridge of this engine and the subnet behind it ("172.17.0.0/16")."""

    bridge: str
    subnet: str


class Forwarding(NamedTuple):
    """A published port: `host_ip` "0.0.0.0" means every address of the host."""

    host_ip: str
    protocol: str
    host_port: int
    address: str
    port: int


def table_name(tag: str) -> str:
    return f"bireme_{tag}"


def plan_removal(tag: str) -> list[Message]:
    """Messages that remove the table, there or not."""
    name = table_name(tag)
    return [nft.add_table(_FAMILY, name), nft.delete_table(_FAMILY, name)]


def plan_table(tag: str, networks: Iterable[Network], forwardings: Iterable[Forwarding]) -> list[Message]:
    """Messages that replace whatever the table was by the whole of it. Pure."""
    name = table_name(tag)
    messages = [*plan_removal(tag), nft.add_table(_FAMILY, name), *_plan_sets(name), *_plan_chains(name)]
    for chain, expressions in _rules():
        messages.append(nft.add_rule(_FAMILY, name, chain, expressions))
    for kind, elements in elements_of(networks, forwardings).items():
        messages += nft.add_elements(_FAMILY, name, kind, elements)
    return messages


def plan_change(tag: str, add: Iterable[Forwarding] = (), remove: Iterable[Forwarding] = ()) -> list[Message]:
    """Messages that publish and unpublish ports in a table that exists. Pure."""
    name = table_name(tag)
    messages: list[Message] = []
    for kind, elements in elements_of((), remove).items():
        messages += nft.delete_elements(_FAMILY, name, kind, [Element(one.key) for one in elements])
    for kind, elements in elements_of((), add).items():
        messages += nft.add_elements(_FAMILY, name, kind, elements)
    return messages


def elements_of(networks: Iterable[Network], forwardings: Iterable[Forwarding]) -> dict[str, list[Element]]:
    """What each set and map holds; sets without elements are left out."""
    found: dict[str, list[Element]] = {}
    for network in networks:
        name = _interface(network.bridge)
        subnet = ipaddress.IPv4Network(network.subnet)
        found.setdefault("bridges", []).append(Element(name))
        found.setdefault("same_bridge", []).append(Element(name + name))
        end = int(subnet.broadcast_address) + 1
        found.setdefault("subnets4", []).extend(
            (
                Element(subnet.network_address.packed),
                Element(end.to_bytes(5, "big")[1:], flags=nft.NFT_SET_ELEM_INTERVAL_END),
            )
        )
    for forwarding in forwardings:
        kind = "any_ports4" if forwarding.host_ip in _ANY else "ports4"
        found.setdefault(kind, []).append(_port_element(forwarding))
    return found


def _interface(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def _port_element(forwarding: Forwarding) -> Element:
    key = struct.pack(">B3xH2x", _PROTOCOLS[forwarding.protocol], forwarding.host_port)
    if forwarding.host_ip not in _ANY:
        key = socket.inet_aton(forwarding.host_ip) + key
    return Element(key, socket.inet_aton(forwarding.address) + struct.pack(">H2x", forwarding.port))


def _plan_sets(table: str) -> list[Message]:
    name, address = (nft.TYPE_IFNAME, 16), (nft.TYPE_IPV4, 4)
    protocol, port = (nft.TYPE_PROTOCOL, 1), (nft.TYPE_SERVICE, 2)
    return [
        nft.add_set(_FAMILY, table, "bridges", [name], number=1),
        nft.add_set(_FAMILY, table, "same_bridge", [name, name], number=2),
        nft.add_set(_FAMILY, table, "subnets4", [address], flags=nft.NFT_SET_INTERVAL, number=3),
        nft.add_set(_FAMILY, table, "ports4", [address, protocol, port], [address, port], number=4),
        nft.add_set(_FAMILY, table, "any_ports4", [protocol, port], [address, port], number=5),
    ]


def _plan_chains(table: str) -> list[Message]:
    def base(name: str, kind: str, hook: int, priority: int) -> Message:
        return nft.add_base_chain(_FAMILY, table, name, kind=kind, hook=hook, priority=priority)

    return [
        nft.add_chain(_FAMILY, table, "published"),
        nft.add_chain(_FAMILY, table, "inward"),
        base("guard", "filter", nft.NF_INET_PRE_ROUTING, _PRIORITY_RAW),
        base("prerouting", "nat", nft.NF_INET_PRE_ROUTING, _PRIORITY_DSTNAT),
        base("output", "nat", nft.NF_INET_LOCAL_OUT, _PRIORITY_DSTNAT),
        base("forward", "filter", nft.NF_INET_FORWARD, _PRIORITY_FILTER),
        base("postrouting", "nat", nft.NF_INET_POST_ROUTING, _PRIORITY_SRCNAT),
    ]


def _host32(value: int) -> bytes:
    return struct.pack("=I", value)


def _ipv4() -> list[bytes]:
    return [nft.meta(nft.NFT_META_NFPROTO), nft.equals(bytes([nft.NFPROTO_IPV4]))]


def _address(offset: int) -> bytes:
    return nft.payload(nft.NFT_PAYLOAD_NETWORK_HEADER, offset, 4)


def _loopback(offset: int, *, negate: bool = False) -> list[bytes]:
    return [_address(offset), nft.mask(b"\xff\0\0\0"), nft.equals(b"\x7f\0\0\0", negate=negate)]


def _local() -> list[bytes]:
    return [nft.fib_address_type(), nft.equals(_host32(nft.RTN_LOCAL))]


def _bridge(key: int, *, negate: bool = False) -> list[bytes]:
    return [nft.meta(key), nft.lookup("bridges", negate=negate)]


def _connection(key: int, bits: int) -> list[bytes]:
    return [nft.connection(key), nft.mask(_host32(bits)), nft.equals(_host32(0), negate=True)]


def _rules() -> list[tuple[str, list[bytes]]]:
    accept, drop = nft.verdict(nft.NF_ACCEPT), nft.verdict(nft.NF_DROP)
    published = nft.verdict(nft.NFT_GOTO, "published")
    incoming, outgoing = nft.NFT_META_IIFNAME, nft.NFT_META_OIFNAME
    protocol = nft.meta(nft.NFT_META_L4PROTO, 1)
    port = nft.payload(nft.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, 2)
    send = nft.destination_nat(nft.NFPROTO_IPV4, 0, 1)
    masquerade = nft.masquerade()
    from_subnet = [_address(_SOURCE), nft.lookup("subnets4")]
    was_published = _connection(nft.NFT_CT_STATUS, nft.IPS_DST_NAT)
    return [
        ("guard", [*_bridge(incoming), *_ipv4(), *_loopback(_DESTINATION), drop]),
        ("guard", [*_bridge(incoming), *_ipv4(), *_loopback(_SOURCE), drop]),
        ("prerouting", [*_ipv4(), *_loopback(_DESTINATION, negate=True), *_local(), published]),
        ("output", [*_ipv4(), *_local(), published]),
        ("published", [*_ipv4(), _address(_DESTINATION), protocol, port, nft.lookup("ports4", 0, result=0), send]),
        ("published", [*_ipv4(), protocol, port, nft.lookup("any_ports4", 1, result=0), send]),
        ("forward", [*_bridge(outgoing), nft.verdict(nft.NFT_JUMP, "inward")]),
        ("inward", [*_connection(nft.NFT_CT_STATE, nft.CT_ESTABLISHED_OR_RELATED), accept]),
        ("inward", [*was_published, accept]),
        ("inward", [nft.meta(incoming, 0), nft.meta(outgoing, 4), nft.lookup("same_bridge"), accept]),
        ("inward", [drop]),
        ("postrouting", [*_ipv4(), *from_subnet, *_bridge(outgoing, negate=True), masquerade]),
        ("postrouting", [*_ipv4(), *was_published, *from_subnet, *_bridge(outgoing), masquerade]),
        ("postrouting", [*_ipv4(), *_loopback(_SOURCE), *_bridge(outgoing), masquerade]),
    ]


_Key = tuple[str, str, int]


class Firewall:
    """The table of one engine, kept as it should be; shared by all networks of that engine, safe for threads.

    Errors: Unavailable when the kernel refuses (no nf_tables, no CAP_NET_ADMIN).
    """

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._name = table_name(tag)
        self._lock = threading.Lock()
        self._socket: NfTables | None = None
        self._networks: dict[str, Network] = {}
        self._wanted: dict[_Key, Forwarding] = {}
        self._written: dict[_Key, Forwarding] = {}
        self._generation = 0
        self._fingerprint = ""

    def close(self) -> None:
        """Close the socket; the table stays, as running instances need it."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def add_network(self, network: Network) -> None:
        """Know a network from now on; writes the table when it is new or changed, and repairs it when it is not."""
        with self._lock:
            before = dict(self._networks)
            self._networks[network.bridge] = network
            if before == self._networks:
                self._ensure()
                return
            try:
                self._rebuild()
            except Unavailable:
                self._networks = before
                raise

    def remove_network(self, bridge: str) -> None:
        """Forget a network; the last one takes the table with it. Idempotent, removes what an earlier engine left."""
        with self._lock:
            self._networks.pop(bridge, None)
            if self._networks:
                self._rebuild()
                return
            self._wanted.clear()
            self._written.clear()
            self._generation = 0
            self._transact(plan_removal(self._tag))

    def remember(self, forwardings: Iterable[Forwarding]) -> None:
        """Ports that an earlier engine published: kept when the table is next written, added when it is already."""
        with self._lock:
            added = [one for one in forwardings if self._wanted.get(_key(one)) != one]
            self._wanted.update((_key(one), one) for one in added)
            if self._generation:
                self._change(added, ())

    def add(self, forwardings: Iterable[Forwarding]) -> None:
        """Publish ports: one transaction, one element each."""
        added = list(forwardings)
        with self._lock:
            self._wanted.update((_key(one), one) for one in added)
            try:
                self._change(added, ())
            except Unavailable:
                for one in added:
                    self._wanted.pop(_key(one), None)
                raise

    def remove(self, forwardings: Iterable[Forwarding]) -> None:
        """Unpublish ports, whatever their target; what is not published is passed over."""
        with self._lock:
            popped = [self._wanted.pop(_key(one), None) for one in forwardings]
            gone = [one for one in popped if one is not None]
            if self._generation:
                self._change((), gone)

    def targets(self, protocol: str, host_port: int) -> set[str]:
        """The addresses that a port of the host leads to, one for each host address it is published on."""
        with self._lock:
            return {
                one.address for one in self._wanted.values() if (one.protocol, one.host_port) == (protocol, host_port)
            }

    def obstacles(self) -> list[str]:
        """Chains of others that drop what they do not know while it is forwarded: "ip filter FORWARD".

        They may know our bridges all the same; iptables' legacy tables cannot be seen from here.
        """
        names = {nft.NFPROTO_INET: "inet", nft.NFPROTO_IPV4: "ip"}
        with self._lock:
            return [
                f"{names[one.family]} {one.table} {one.name}"
                for one in self._open().base_chains()
                if one.family in names
                and one.table != self._name
                and (one.kind, one.hook, one.policy) == ("filter", nft.NF_INET_FORWARD, nft.NF_DROP)
            ]

    def ensure(self) -> None:
        """Repair the table when somebody changed or flushed it: 10 us while the ruleset's generation is still ours."""
        with self._lock:
            self._ensure()

    def _ensure(self) -> None:
        if self._open().generation() == self._generation:
            return
        if not self._is_intact() and self._networks:
            self._rebuild()

    def _change(self, add: Iterable[Forwarding], remove: Iterable[Forwarding]) -> None:
        """A small change to a table known to be intact; when it is not, the whole table as it is wanted."""
        messages = plan_change(self._tag, add, remove)
        if not messages:
            return
        for _ in range(3):
            try:
                self._open().transaction(messages, self._generation)
            except NetlinkError as error:
                if error.errno == errno.ERESTART and self._is_intact():
                    continue
                break
            self._generation = self._generation + 1 & 0xFFFFFFFF
            for one in remove:
                self._written.pop(_key(one), None)
            self._written.update((_key(one), one) for one in add)
            return
        self._rebuild()

    def _rebuild(self) -> None:
        self._transact(plan_table(self._tag, self._networks.values(), self._wanted.values()))
        self._written = dict(self._wanted)
        self._generation = self._open().generation()
        self._fingerprint = self._read_fingerprint()

    def _transact(self, messages: list[Message]) -> None:
        try:
            self._open().transaction(messages)
        except NetlinkError as error:
            raise Unavailable(
                f"cannot write the firewall table {self._name}: {error}",
                subject=self._name,
                place="nftables",
                hint="the kernel needs nf_tables with nat, masquerade, fib and ct, the engine CAP_NET_ADMIN",
            ) from error

    def _open(self) -> NfTables:
        if self._socket is None:
            self._socket = NfTables()
        return self._socket

    def _is_intact(self) -> bool:
        """Whether the kernel still has what was last written; if so the present generation becomes ours."""
        if not self._generation:
            return False
        generation = self._open().generation()
        if self._read_fingerprint() != self._fingerprint:
            return False
        wanted = elements_of(self._networks.values(), self._written.values())
        try:
            for kind in _SETS:
                if set(self._open().elements(_FAMILY, self._name, kind)) != set(wanted.get(kind, ())):
                    return False
        except NetlinkError:
            return False
        self._generation = generation
        return True

    def _read_fingerprint(self) -> str:
        return sha256_hex(b"".join(self._open().rules(_FAMILY, self._name)))


def _key(one: Forwarding) -> _Key:
    return "" if one.host_ip in _ANY else one.host_ip, one.protocol, one.host_port
