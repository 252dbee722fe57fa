"""Which flows are forgotten."""

from __future__ import annotations

import socket
import struct

import pytest

from bireme.linux.conntrack import _plan_deletion
from bireme.linux.nlsocket import attribute, iter_attributes

NESTED = 0x8000
OURS = socket.inet_aton("172.17.0.2")


def _flow(port: int, answered_from: str, protocol: int = 17) -> bytes:
    proto = attribute(1, bytes([protocol])) + attribute(2, b"\x30\x39") + attribute(3, struct.pack(">H", port))
    addresses = attribute(1, socket.inet_aton("10.9.0.2")) + attribute(2, socket.inet_aton("10.9.0.1"))
    original = attribute(1 | NESTED, addresses) + attribute(2 | NESTED, proto)
    reply = attribute(1 | NESTED, attribute(1, socket.inet_aton(answered_from)))
    return bytes(4) + attribute(1 | NESTED, original) + attribute(2 | NESTED, reply) + attribute(12, b"\0\0\0\7")


@pytest.mark.parametrize(
    ("flow", "deleted"),
    [
        (_flow(5353, "10.9.0.1"), True),
        (_flow(5353, "172.17.0.9"), True),
        (_flow(5353, "172.17.0.2"), False),
        (_flow(5354, "172.17.0.9"), False),
        (_flow(5353, "172.17.0.9", protocol=6), False),
        (bytes(4), False),
        (b"", False),
    ],
)
def test_stale_udp_flows_of_the_port_alone(flow: bytes, deleted: bool) -> None:
    assert (_plan_deletion(flow, 5353, {OURS}) is not None) == deleted


def test_deletion_names_the_flow_by_tuple_and_id() -> None:
    flow = _flow(5353, "10.9.0.1")
    message = _plan_deletion(flow, 5353, ())
    assert message is not None
    found = dict(iter_attributes(message[2], 4))
    assert found == {1: dict(iter_attributes(flow, 4))[1], 12: b"\0\0\0\7"}
