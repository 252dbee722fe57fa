"""The rtnetlink codec, by bytes: what is sent, and what is made of answers. The kernel's part is in integration."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.linux import netlink
from bireme.linux.nlsocket import (
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkError,
    attribute,
    iter_attributes,
    iter_messages,
    pack_message,
    parse_acknowledgement,
)


def test_attribute_is_padded_but_its_length_is_not() -> None:
    assert attribute(3, b"lo\0") == struct.pack("=HH", 7, 3) + b"lo\0\0"
    assert attribute(1, b"") == struct.pack("=HH", 4, 1)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=8))
def test_attributes_come_back(pairs: list[tuple[int, bytes]]) -> None:
    packed = b"".join(attribute(kind, value) for kind, value in pairs)
    assert list(iter_attributes(packed)) == pairs


@given(st.binary(max_size=200))
def test_any_bytes_are_read_to_an_end(data: bytes) -> None:
    for _, value in iter_attributes(data):
        assert len(value) <= len(data)
    for *_, payload in iter_messages(data):
        assert len(payload) <= len(data)


@given(st.lists(st.binary(max_size=20), max_size=5), st.integers(0, 3))
def test_messages_come_back_and_a_cut_one_is_dropped(bodies: list[bytes], cut: int) -> None:
    packed = b"".join(
        pack_message(16, 0, number, body) + b"\0" * (-len(body) % 4) for number, body in enumerate(bodies)
    )
    if bodies:
        packed = packed[: len(packed) - cut * 4] if cut else packed
    found = [payload for *_, payload in iter_messages(packed)]
    assert found == bodies[: len(found)]
    assert len(found) >= len(bodies) - cut - 1


def test_acknowledgement_carries_the_kernels_explanation() -> None:
    text = attribute(1, b"ipv4: Invalid prefix length\0")
    capped = struct.pack("=i", -errno.EINVAL) + bytes(16) + text
    assert parse_acknowledgement(NLM_F_CAPPED | NLM_F_ACK_TLVS, capped) == (
        errno.EINVAL,
        "ipv4: Invalid prefix length",
    )
    request = pack_message(16, 0, 1, bytes(16))
    whole = struct.pack("=i", -errno.EINVAL) + request + text
    assert parse_acknowledgement(NLM_F_ACK_TLVS, whole) == (errno.EINVAL, "ipv4: Invalid prefix length")
    assert parse_acknowledgement(0, bytes(20)) == (0, "")
    assert parse_acknowledgement(0, b"")[0] == errno.EIO


def test_error_names_call_subject_and_detail() -> None:
    error = NetlinkError(errno.EEXIST, "RTM_NEWLINK", "veth v0", "in use", 2)
    assert str(error) == "RTM_NEWLINK veth v0: File exists (EEXIST): in use"
    assert error.errno == errno.EEXIST
    assert error.index == 2


def _nested(data: bytes, *path: int) -> bytes:
    for kind in path:
        data = dict(iter_attributes(data))[kind]
    return data


def test_veth_puts_the_peer_into_a_namespace_and_raises_the_host_end_only() -> None:
    kind, flags, body, about = netlink.veth("v0", "eth0", netns_fd=7, master=5, mac="02:42:ac:11:00:02", mtu=1400)
    assert (kind, flags, about) == (netlink.RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, "veth v0")
    assert struct.unpack_from("=BxHiII", body) == (0, 0, 0, netlink.IFF_UP, netlink.IFF_UP)
    outer = dict(iter_attributes(body, 16))
    assert outer[3] == b"v0\0"
    assert outer[10] == struct.pack("=I", 5)
    assert outer[4] == struct.pack("=I", 1400)
    assert 1 not in outer
    assert _nested(outer[18], 1) == b"veth"
    peer = _nested(outer[18], 2, 1)
    assert struct.unpack_from("=BxHiII", peer) == (0, 0, 0, 0, 0)
    inner = dict(iter_attributes(peer, 16))
    assert inner[3] == b"eth0\0"
    assert inner[28] == struct.pack("=I", 7)
    assert inner[1] == bytes.fromhex("0242ac110002")
    assert inner[4] == struct.pack("=I", 1400)


def test_veth_by_pid() -> None:
    body = netlink.veth("v0", "eth0", netns_pid=123, up=False)[2]
    assert struct.unpack_from("=BxHiII", body)[3:] == (0, 0)
    inner = dict(iter_attributes(_nested(dict(iter_attributes(body, 16))[18], 2, 1), 16))
    assert inner[19] == struct.pack("=I", 123)
    assert 28 not in inner


def test_address_and_route() -> None:
    body = netlink.address(4, "172.17.0.2", 16)[2]
    assert body[:8] == struct.pack("=BBBBI", socket.AF_INET, 16, 0, 0, 4)
    assert dict(iter_attributes(body, 8)) == {2: b"\xac\x11\0\2", 1: b"\xac\x11\0\2"}
    assert netlink.address(4, "fd00::2", 64)[2][0] == socket.AF_INET6
    body = netlink.route("172.17.0.1")[2]
    assert body[:2] == bytes([socket.AF_INET, 0])
    assert dict(iter_attributes(body, 12)) == {5: b"\xac\x11\0\1"}
    body = netlink.route(destination="10.0.0.0", prefix_len=8, ifindex=3)[2]
    assert body[6] == 253  # scope link
    assert dict(iter_attributes(body, 12)) == {1: b"\x0a\0\0\0", 4: struct.pack("=I", 3)}


def test_interface_inside_is_configured_by_one_batch() -> None:
    messages = netlink.configure_interface(2, "172.17.0.2", 16, "172.17.0.1", mac="02:42:ac:11:00:02")
    assert [kind for kind, *_ in messages] == [netlink.RTM_NEWLINK, netlink.RTM_NEWADDR, netlink.RTM_NEWROUTE]
    assert len(netlink.configure_interface(2, "172.17.0.2", 16)) == 2


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "a\0b"])
def test_names_the_kernel_would_cut_or_refuse(name: str) -> None:
    with pytest.raises(ValueError, match="not an interface name"):
        netlink.link_up(name)


@pytest.mark.parametrize(
    "mac", ["", "02:42", "zz:42:ac:11:00:02", "0242:ac:11:00:02:", "02:42:ac:11:00:+2", "02:42:ac:11:00:02:03"]
)
def test_bad_mac(mac: str) -> None:
    with pytest.raises(ValueError, match="not a MAC address"):
        netlink.parse_mac(mac)


def test_renaming_takes_the_index() -> None:
    with pytest.raises(ValueError, match="takes its ifindex"):
        netlink.set_link("eth0", name="eth1")
    assert dict(iter_attributes(netlink.set_link(3, name="eth1", up=True)[2], 16)) == {3: b"eth1\0"}


def test_parse_link() -> None:
    info = attribute(18, attribute(1, b"veth\0"))
    parts = attribute(3, b"v0\0") + attribute(4, struct.pack("=I", 1500)) + attribute(1, bytes(6)) + info
    parts += attribute(5, struct.pack("=I", 2)) + attribute(37, struct.pack("=i", 0)) + attribute(16, b"\6")
    link = netlink.parse_link(struct.pack("=BxHiII", 0, 1, 9, netlink.IFF_UP, 0) + parts)
    assert (link.ifindex, link.name, link.kind, link.mtu, link.peer, link.peer_namespace) == (
        9,
        "v0",
        "veth",
        1500,
        2,
        0,
    )
    assert link.is_up


@given(st.binary(min_size=16, max_size=120))
def test_parsers_take_any_payload(payload: bytes) -> None:
    for parse in (netlink.parse_link, netlink.parse_address, netlink.parse_route, netlink.parse_neighbour):
        parse(payload)
