"""rtnetlink(7): links, addresses and routes, in batches of ready-made messages.

Messages are made by pure builders (`veth`, `address`, `route`...) and executed by `RtNetlink.batch`, any number with
one system call; nlsocket.py tells how.

Things the kernel does not say:
- A veth message whose peer carries IFF_UP fails with ENOTCONN. So `veth` raises the host's end only, whoever owns the
  peer's namespace raises the other one.
- One message creates both ends, puts the peer into a namespace, enslaves the host's end to a bridge and raises it:
  half a millisecond against four times that for the steps one by one.

Addresses are text, MAC addresses "02:42:..." text, indices are interface indices of the socket's namespace. Failures
raise NetlinkError, which carries the kernel's own explanation (NETLINK_EXT_ACK) where it gives one.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import NamedTuple

from bireme.linux.nlsocket import (
    NETLINK_GET_STRICT_CHK,
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_CAPPED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    SOL_NETLINK,
    Message,
    NetlinkError,
    NetlinkSocket,
    attribute,
    iter_attributes,
    pack_message,
    parse_acknowledgement,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

_NAMES = {
    16: "RTM_NEWLINK",
    17: "RTM_DELLINK",
    18: "RTM_GETLINK",
    20: "RTM_NEWADDR",
    21: "RTM_DELADDR",
    22: "RTM_GETADDR",
    24: "RTM_NEWROUTE",
    25: "RTM_DELROUTE",
    26: "RTM_GETROUTE",
    28: "RTM_NEWNEIGH",
    29: "RTM_DELNEIGH",
    30: "RTM_GETNEIGH",
}

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_LOWER_UP = 0x10000

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_NET_NS_PID, _IFLA_GROUP, _IFLA_NET_NS_FD = 16, 18, 19, 27, 28
_IFLA_EXT_MASK, _IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES, _IFLA_LINK_NETNSID = 29, 31, 32, 37
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA, _IFLA_BRPORT_MODE = 4, 5, 4
_RTEXT_FILTER_SKIP_STATS = 8
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 0x2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_NDA_DST, _NDA_LLADDR = 1, 2

RT_TABLE_MAIN = 254
RT_TABLE_LOCAL = 255
_RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RTN_UNICAST = 3, 0, 253, 1

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_INT = struct.Struct("=i")
_UINT = struct.Struct("=I")


class Link(NamedTuple):
    """One interface. `peer` is the ifindex at the other end (veth), in namespace `peer_namespace` unless that is -1."""

    ifindex: int
    name: str
    kind: str
    flags: int
    mtu: int
    mac: str
    master: int
    peer: int
    peer_namespace: int
    group: int
    operstate: int

    @property
    def is_up(self) -> bool:
        return bool(self.flags & IFF_UP)


class Address(NamedTuple):
    ifindex: int
    family: int
    address: str
    prefix_len: int
    scope: int


class Route(NamedTuple):
    """`destination` is "" for the default route; `kind` is the rtm_type (1 is unicast, 2 local, 3 broadcast)."""

    family: int
    destination: str
    prefix_len: int
    gateway: str
    ifindex: int
    table: int
    kind: int
    protocol: int
    metric: int


class Neighbour(NamedTuple):
    """`state` holds NUD_ flags (2 reachable, 128 permanent)."""

    ifindex: int
    family: int
    address: str
    mac: str
    state: int


class RtNetlink(NetlinkSocket):
    """A NETLINK_ROUTE socket of the caller's current network namespace. Cheap: about 15 us to open."""

    def __init__(self) -> None:
        super().__init__(NETLINK_ROUTE, _NAMES)
        try:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        except OSError:
            pass

    def links(self) -> list[Link]:
        """Every interface of the namespace."""
        body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_EXT_MASK, _UINT.pack(_RTEXT_FILTER_SKIP_STATS))
        return [parse_link(part) for _, part in self.dump((RTM_GETLINK, 0, body, "links"))]

    def link(self, link: int | str) -> Link | None:
        """One interface by ifindex or name; None when there is none."""
        body = _link_head(link) + attribute(_IFLA_EXT_MASK, _UINT.pack(_RTEXT_FILTER_SKIP_STATS))
        try:
            return parse_link(self.get((RTM_GETLINK, 0, body, str(link)))[1])
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def addresses(self, family: int = 0, ifindex: int = 0) -> list[Address]:
        """Addresses, of one family (AF_INET, AF_INET6) and one interface when given."""
        parts = self.dump((RTM_GETADDR, 0, _IFADDR.pack(family, 0, 0, 0, 0), "addresses"))
        found = [parse_address(part) for _, part in parts]
        return [address for address in found if ifindex in (0, address.ifindex)]

    def routes(self, family: int = 0, table: int = 0) -> list[Route]:
        """Routes, of one family and one table when given."""
        body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        found = [parse_route(part) for _, part in self.dump((RTM_GETROUTE, 0, body, "routes"))]
        return [route for route in found if table in (0, route.table)]

    def neighbours(self, family: int = 0, ifindex: int = 0) -> list[Neighbour]:
        """The neighbour table (ARP and ND), of one family and one interface when given."""
        parts = self.dump((RTM_GETNEIGH, 0, _NDMSG.pack(family, 0, 0, 0, 0), "neighbours"))
        found = [parse_neighbour(part) for _, part in parts]
        return [neighbour for neighbour in found if ifindex in (0, neighbour.ifindex)]


def parse_mac(text: str) -> bytes:
    """Six bytes of "02:42:ac:11:00:02"; ValueError when it is not that."""
    parts = text.split(":")
    if len(parts) != 6 or not all(len(part) == 2 and set(part) <= _HEX_DIGITS for part in parts):
        raise ValueError(f"not a MAC address: {text}")
    return bytes.fromhex("".join(parts))


_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


def format_mac(raw: bytes) -> str:
    return raw.hex(":")


def pack_address(text: str) -> tuple[int, bytes]:
    """(AF_INET or AF_INET6, its bytes); OSError when the text is no address."""
    if ":" in text:
        return socket.AF_INET6, socket.inet_pton(socket.AF_INET6, text)
    return socket.AF_INET, socket.inet_pton(socket.AF_INET, text)


def _format_address(raw: bytes) -> str:
    if len(raw) not in (4, 16):
        return ""
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _uint(raw: bytes) -> int:
    return int.from_bytes(raw[:4], "little" if _LITTLE else "big")


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def _name(text: str) -> bytes:
    raw = os.fsencode(text)
    if not 0 < len(raw) < 16 or b"/" in raw or b"\0" in raw:
        raise ValueError(f"not an interface name: {text!r}")
    return attribute(_IFLA_IFNAME, raw + b"\0")


def _link_head(link: int | str, flags: int = 0, change: int = 0) -> bytes:
    if isinstance(link, int):
        return _IFINFO.pack(0, 0, link, flags, change)
    return _IFINFO.pack(0, 0, 0, flags, change) + _name(link)


def veth(
    host: str,
    peer: str,
    *,
    netns_fd: int = -1,
    netns_pid: int = 0,
    master: int = 0,
    mac: str = "",
    mtu: int = 0,
    up: bool = True,
) -> Message:
    """A veth pair: `host` here, enslaved to interface `master` and up; `peer` in the namespace given, with `mac`, down.

    Single queue at both ends: the default of one queue per CPU costs memory and time and helps no bridge.
    """
    common = _SINGLE_QUEUE + (attribute(_IFLA_MTU, _UINT.pack(mtu)) if mtu else b"")
    other = _IFINFO.pack(0, 0, 0, 0, 0) + _name(peer) + common
    if netns_fd >= 0:
        other += attribute(_IFLA_NET_NS_FD, _UINT.pack(netns_fd))
    elif netns_pid:
        other += attribute(_IFLA_NET_NS_PID, _UINT.pack(netns_pid))
    if mac:
        other += attribute(_IFLA_ADDRESS, parse_mac(mac))
    flags = IFF_UP if up else 0
    body = _IFINFO.pack(0, 0, 0, flags, flags) + _name(host) + common
    if master:
        body += attribute(_IFLA_MASTER, _UINT.pack(master))
    info = _VETH_KIND + attribute(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, other))
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + attribute(_IFLA_LINKINFO, info), f"veth {host}"


_SINGLE_QUEUE = attribute(_IFLA_NUM_TX_QUEUES, _UINT.pack(1)) + attribute(_IFLA_NUM_RX_QUEUES, _UINT.pack(1))
_VETH_KIND = attribute(_IFLA_INFO_KIND, b"veth")


def bridge(name: str, *, mac: str = "", mtu: int = 0, up: bool = True) -> Message:
    """A bridge, up. Give it a MAC of its own: otherwise it takes its lowest port's, and changes when ports come and go.

    Spanning tree is off, so a new port forwards at once.
    """
    flags = IFF_UP if up else 0
    body = _IFINFO.pack(0, 0, 0, flags, flags) + _name(name)
    if mac:
        body += attribute(_IFLA_ADDRESS, parse_mac(mac))
    if mtu:
        body += attribute(_IFLA_MTU, _UINT.pack(mtu))
    info = attribute(_IFLA_INFO_KIND, b"bridge")
    return RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + attribute(_IFLA_LINKINFO, info), f"bridge {name}"


def bridge_port(link: int | str, *, hairpin: bool) -> Message:
    """Whether a port of a bridge sends a frame back to where it came from.

    With bridge netfilter a packet to a published port is rewritten while it is bridged: an instance reaches its own
    published port only through a port with hairpin mode.
    """
    data = attribute(_IFLA_INFO_SLAVE_DATA, attribute(_IFLA_BRPORT_MODE, b"\1" if hairpin else b"\0"))
    info = attribute(_IFLA_LINKINFO, attribute(_IFLA_INFO_SLAVE_KIND, b"bridge\0") + data)
    return RTM_NEWLINK, 0, _link_head(link) + info, f"bridge port {link}"


def set_link(
    link: int | str,
    *,
    up: bool | None = None,
    name: str = "",
    mac: str = "",
    mtu: int = 0,
    master: int | None = None,
    netns_fd: int = -1,
    group: int | None = None,
) -> Message:
    """Change an interface: state, name, MAC, MTU, master (0 frees it), namespace, group; what is not given stays.

    Renaming needs the ifindex, since a name in the message selects the interface.
    """
    flags = IFF_UP if up else 0
    change = 0 if up is None else IFF_UP
    body = _link_head(link, flags, change)
    if name:
        if isinstance(link, str):
            raise ValueError("renaming an interface takes its ifindex")
        body += _name(name)
    if mac:
        body += attribute(_IFLA_ADDRESS, parse_mac(mac))
    if mtu:
        body += attribute(_IFLA_MTU, _UINT.pack(mtu))
    if master is not None:
        body += attribute(_IFLA_MASTER, _UINT.pack(master))
    if netns_fd >= 0:
        body += attribute(_IFLA_NET_NS_FD, _UINT.pack(netns_fd))
    if group is not None:
        body += attribute(_IFLA_GROUP, _UINT.pack(group))
    return RTM_NEWLINK, 0, body, f"link {link}"


def link_up(link: int | str) -> Message:
    return RTM_NEWLINK, 0, _link_head(link, IFF_UP, IFF_UP), f"link {link}"


def link_down(link: int | str) -> Message:
    return RTM_NEWLINK, 0, _link_head(link, 0, IFF_UP), f"link {link}"


def lo_up() -> Message:
    """Raise the loopback interface, which has ifindex 1 in every namespace; its addresses come by themselves."""
    return RTM_NEWLINK, 0, _IFINFO.pack(0, 0, 1, IFF_UP, IFF_UP), "link lo"


_LOOPBACK_UP = pack_message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, lo_up()[2])


def raise_loopback() -> None:
    """`lo_up` in the caller's network namespace with the fewest steps: the first process of every instance does it, in
    memory that it copies page by page as it touches it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE) as sock:
        sock.send(_LOOPBACK_UP)
        code, _ = parse_acknowledgement(NLM_F_CAPPED, sock.recv(256, socket.MSG_DONTWAIT)[16:])
    if code:
        raise NetlinkError(code, "RTM_NEWLINK", "link lo")


def delete_link(link: int | str) -> Message:
    """Destroy an interface (both ends of a veth). Synchronous and slow, 10-20 ms: prefer closing its namespace."""
    return RTM_DELLINK, 0, _link_head(link), f"link {link}"


def delete_group(group: int) -> Message:
    """Destroy every interface of a group (see `set_link`) at the price of one grace period."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_GROUP, _UINT.pack(group))
    return RTM_DELLINK, 0, body, f"link group {group}"


def address(ifindex: int, text: str, prefix_len: int) -> Message:
    """Give an interface an address; its subnet's route comes with it once the interface is up. EEXIST when it has it.

    IPv6 addresses skip duplicate address detection, they would not be usable for a second otherwise.
    """
    return (
        RTM_NEWADDR,
        NLM_F_CREATE | NLM_F_EXCL,
        _address_body(ifindex, text, prefix_len),
        f"address {text}/{prefix_len}",
    )


def delete_address(ifindex: int, text: str, prefix_len: int) -> Message:
    return RTM_DELADDR, 0, _address_body(ifindex, text, prefix_len), f"address {text}/{prefix_len}"


def _address_body(ifindex: int, text: str, prefix_len: int) -> bytes:
    family, raw = pack_address(text)
    body = _IFADDR.pack(family, prefix_len, 0, 0, ifindex) + attribute(_IFA_LOCAL, raw) + attribute(_IFA_ADDRESS, raw)
    if family == socket.AF_INET6:
        body += attribute(_IFA_FLAGS, _UINT.pack(_IFA_F_NODAD))
    return body


def route(
    gateway: str = "",
    *,
    destination: str = "",
    prefix_len: int = 0,
    ifindex: int = 0,
    family: int = socket.AF_INET,
    table: int = RT_TABLE_MAIN,
) -> Message:
    """A route to destination/prefix_len (the default route when empty) over `gateway`, or direct over `ifindex`."""
    about = f"route {destination or 'default'}"
    return RTM_NEWROUTE, NLM_F_CREATE, _route_body(gateway, destination, prefix_len, ifindex, family, table), about


def delete_route(
    gateway: str = "",
    *,
    destination: str = "",
    prefix_len: int = 0,
    ifindex: int = 0,
    family: int = socket.AF_INET,
    table: int = RT_TABLE_MAIN,
) -> Message:
    about = f"route {destination or 'default'}"
    return RTM_DELROUTE, 0, _route_body(gateway, destination, prefix_len, ifindex, family, table), about


def _route_body(gateway: str, destination: str, prefix_len: int, ifindex: int, family: int, table: int) -> bytes:
    attributes = b""
    if destination:
        family, raw = pack_address(destination)
        attributes += attribute(_RTA_DST, raw)
    if gateway:
        family, raw = pack_address(gateway)
        attributes += attribute(_RTA_GATEWAY, raw)
    if ifindex:
        attributes += attribute(_RTA_OIF, _UINT.pack(ifindex))
    scope = _RT_SCOPE_UNIVERSE if gateway or family == socket.AF_INET6 else _RT_SCOPE_LINK
    return _RTMSG.pack(family, prefix_len, 0, 0, table, _RTPROT_BOOT, scope, _RTN_UNICAST, 0) + attributes


def configure_interface(
    ifindex: int, text: str, prefix_len: int, gateway: str = "", *, name: str = "", mac: str = "", mtu: int = 0
) -> list[Message]:
    """What the inside of an instance needs for one interface: name, MAC, MTU, up, address, default route."""
    messages = [set_link(ifindex, up=True, name=name, mac=mac, mtu=mtu), address(ifindex, text, prefix_len)]
    if gateway:
        messages.append(route(gateway))
    return messages


def parse_link(payload: bytes) -> Link:
    """A Link from the payload of an RTM_NEWLINK message."""
    _, _, ifindex, flags, _ = _IFINFO.unpack_from(payload)
    found = dict(iter_attributes(payload, 16))
    info = dict(iter_attributes(found.get(_IFLA_LINKINFO, b"")))
    return Link(
        ifindex=ifindex,
        name=os.fsdecode(found.get(_IFLA_IFNAME, b"").rstrip(b"\0")),
        kind=info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
        flags=flags,
        mtu=_uint(found.get(_IFLA_MTU, b"")),
        mac=format_mac(found.get(_IFLA_ADDRESS, b"")),
        master=_uint(found.get(_IFLA_MASTER, b"")),
        peer=_uint(found.get(_IFLA_LINK, b"")),
        peer_namespace=_INT.unpack(found[_IFLA_LINK_NETNSID])[0] if _IFLA_LINK_NETNSID in found else -1,
        group=_uint(found.get(_IFLA_GROUP, b"")),
        operstate=found.get(_IFLA_OPERSTATE, b"\0")[0],
    )


def parse_address(payload: bytes) -> Address:
    """An Address from the payload of an RTM_NEWADDR message."""
    family, prefix_len, _, scope, ifindex = _IFADDR.unpack_from(payload)
    found = dict(iter_attributes(payload, 8))
    text = _format_address(found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b""))
    return Address(ifindex, family, text, prefix_len, scope)


def parse_route(payload: bytes) -> Route:
    """A Route from the payload of an RTM_NEWROUTE message."""
    family, prefix_len, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(payload)
    found = dict(iter_attributes(payload, 12))
    return Route(
        family=family,
        destination=_format_address(found.get(_RTA_DST, b"")),
        prefix_len=prefix_len,
        gateway=_format_address(found.get(_RTA_GATEWAY, b"")),
        ifindex=_uint(found.get(_RTA_OIF, b"")),
        table=_uint(found[_RTA_TABLE]) if _RTA_TABLE in found else table,
        kind=kind,
        protocol=protocol,
        metric=_uint(found.get(_RTA_PRIORITY, b"")),
    )


def parse_neighbour(payload: bytes) -> Neighbour:
    """A Neighbour from the payload of an RTM_NEWNEIGH message."""
    family, ifindex, state, _, _ = _NDMSG.unpack_from(payload)
    found = dict(iter_attributes(payload, 12))
    return Neighbour(
        ifindex, family, _format_address(found.get(_NDA_DST, b"")), format_mac(found.get(_NDA_LLADDR, b"")), state
    )
