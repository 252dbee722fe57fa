"""Connection tracking over nfnetlink: forget what was decided for flows that have no end.

The kernel decides once per connection where it goes. A UDP "connection" lives for as long as packets come, so a client
that never pauses would go on talking to where a port led when it began: an instance that is gone, or nowhere. Whoever
changes where a UDP port leads therefore makes the kernel forget the flows to that port. TCP needs nothing like it.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection

from bireme.linux.nlsocket import NETLINK_NETFILTER, Message, NetlinkError, NetlinkSocket, attribute, iter_attributes

_SUBSYSTEM = 1 << 8
_GET, _DELETE = 1, 2
_NAMES = {_SUBSYSTEM | _GET: "IPCTNL_MSG_CT_GET", _SUBSYSTEM | _DELETE: "IPCTNL_MSG_CT_DELETE"}
_NESTED = 0x8000
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _FILTER = 1, 2, 12, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_V4_SRC, _PROTO_NUM, _PROTO_DST_PORT = 1, 1, 3
_FILTER_ORIG_FLAGS = 1
_BY_PROTOCOL_AND_PORT = 1 << 3 | 1 << 5
_IPPROTO_UDP = 17
_NFPROTO_IPV4 = 2
_HEAD = struct.Struct(">BBH")


class Conntrack(NetlinkSocket):
    """The connections of the caller's current network namespace; needs CAP_NET_ADMIN over it."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER, _NAMES)

    def forget_datagrams(self, port: int, keep: Collection[str] = ()) -> int:
        """Forget the IPv4 UDP flows whose first packet went to `port`, but those answered from an address of `keep`.

        Returns how many there were. The kernel selects by port since Linux 5.8; an older one lists every flow.
        """
        kept = {socket.inet_aton(address) for address in keep}
        tuples = [_plan_deletion(payload, port, kept) for payload in self._list(port)]
        found = [message for message in tuples if message is not None]
        errors = [error for error in self.attempt(found) if error.errno != errno.ENOENT]
        if errors:
            raise errors[0]
        return len(found)

    def _list(self, port: int) -> list[bytes]:
        head = _HEAD.pack(_NFPROTO_IPV4, 0, 0)
        proto = attribute(_PROTO_NUM, bytes([_IPPROTO_UDP])) + attribute(_PROTO_DST_PORT, struct.pack(">H", port))
        wanted = _nest(_TUPLE_ORIG, _nest(_TUPLE_PROTO, proto))
        flags = attribute(_FILTER_ORIG_FLAGS, struct.pack("=I", _BY_PROTOCOL_AND_PORT))
        about = f"UDP flows to port {port}"
        try:
            parts = self.dump((_SUBSYSTEM | _GET, 0, head + wanted + _nest(_FILTER, flags), about))
        except NetlinkError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            parts = self.dump((_SUBSYSTEM | _GET, 0, head, about))
        return [payload for _, payload in parts]


def _plan_deletion(payload: bytes, port: int, keep: Collection[bytes]) -> Message | None:
    """The message that deletes this flow, if it is one to the port and not answered from an address of `keep`."""
    found = dict(iter_attributes(payload, 4))
    original = found.get(_TUPLE_ORIG, b"")
    proto = dict(iter_attributes(dict(iter_attributes(original)).get(_TUPLE_PROTO, b"")))
    if proto.get(_PROTO_NUM) != bytes([_IPPROTO_UDP]) or proto.get(_PROTO_DST_PORT) != struct.pack(">H", port):
        return None
    answers = dict(iter_attributes(dict(iter_attributes(found.get(_TUPLE_REPLY, b""))).get(_TUPLE_IP, b"")))
    if answers.get(_IP_V4_SRC) in keep:
        return None
    body = _HEAD.pack(_NFPROTO_IPV4, 0, 0) + attribute(_TUPLE_ORIG | _NESTED, original)
    if _ID in found:
        body += attribute(_ID, found[_ID])
    return _SUBSYSTEM | _DELETE, 0, body, f"UDP flow to port {port}"


def _nest(kind: int, content: bytes) -> bytes:
    return attribute(kind | _NESTED, content)
