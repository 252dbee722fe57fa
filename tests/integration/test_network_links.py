"""rtnetlink and nf_tables against the kernel, in namespaces of the test's own."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from bireme.linux import netlink, nftables
from bireme.linux.netlink import RtNetlink
from bireme.linux.nftables import NFPROTO_INET, Element, NfTables
from bireme.linux.nlsocket import NetlinkError
from bireme.network.firewall import Forwarding, Network, plan_table
from tests.support.netns import NetNamespace

pytestmark = pytest.mark.needs_root

TABLE = "bireme_test"


@pytest.fixture
def near() -> Iterator[NetNamespace]:
    with NetNamespace("near") as made:
        yield made


@pytest.fixture
def far() -> Iterator[NetNamespace]:
    with NetNamespace("far") as made:
        yield made


def _bridge_and_veth(far: NetNamespace) -> tuple[netlink.Link, netlink.Link]:
    with RtNetlink() as rt:
        rt.batch([netlink.bridge("br0", mac="02:42:00:00:00:01", mtu=1400)])
        bridge = rt.link("br0")
        assert bridge is not None
        pair = netlink.veth("v0", "eth0", netns_fd=far.fd, master=bridge.ifindex, mac="02:42:ac:11:00:02", mtu=1400)
        rt.batch([pair, netlink.bridge_port("v0", hairpin=True)])
        veth = rt.link("v0")
        assert veth is not None
        return bridge, veth


def test_one_message_makes_enslaves_and_raises(near: NetNamespace, far: NetNamespace) -> None:
    bridge, veth = near.run(_bridge_and_veth, far)
    assert (bridge.kind, bridge.mac, bridge.mtu, bridge.is_up) == ("bridge", "02:42:00:00:00:01", 1400, True)
    assert (veth.kind, veth.master, veth.is_up, veth.mtu) == ("veth", bridge.ifindex, True, 1400)
    assert veth.peer_namespace >= 0

    def inside() -> list[netlink.Link]:
        with RtNetlink() as rt:
            return rt.links()

    links = {link.name: link for link in far.run(inside)}
    assert set(links) == {"lo", "eth0"}
    assert links["eth0"].ifindex == veth.peer
    assert links["eth0"].mac == "02:42:ac:11:00:02"
    assert not links["eth0"].is_up


def test_inside_is_configured_by_one_batch(near: NetNamespace, far: NetNamespace) -> None:
    near.run(_bridge_and_veth, far)

    def inside() -> tuple[netlink.Link | None, list[netlink.Address], list[netlink.Route]]:
        with RtNetlink() as rt:
            link = rt.link("eth0")
            assert link is not None
            mac = "02:42:ac:11:00:09"
            rt.batch(netlink.configure_interface(link.ifindex, "172.17.0.9", 16, "172.17.0.1", name="net0", mac=mac))
            found = rt.addresses(socket.AF_INET, link.ifindex)
            return rt.link(link.ifindex), found, rt.routes(socket.AF_INET, netlink.RT_TABLE_MAIN)

    link, addresses, routes = far.run(inside)
    assert link is not None
    assert (link.name, link.mac, link.is_up) == ("net0", "02:42:ac:11:00:09", True)
    assert [(one.address, one.prefix_len) for one in addresses] == [("172.17.0.9", 16)]
    assert {(one.destination, one.prefix_len, one.gateway) for one in routes} == {
        ("", 0, "172.17.0.1"),
        ("172.17.0.0", 16, ""),
    }


def test_a_batch_goes_on_after_a_failure_and_tells_which(near: NetNamespace) -> None:
    def inside() -> list[NetlinkError]:
        with RtNetlink() as rt:
            bad = netlink.address(1, "10.0.0.1", 99)
            errors = rt.attempt([netlink.bridge("br0"), bad, netlink.bridge("br1"), netlink.bridge("br0")])
            assert rt.link("br1") is not None
            return errors

    first, second = near.run(inside)
    assert (first.errno, first.index, first.call, first.subject) == (
        errno.EINVAL,
        1,
        "RTM_NEWADDR",
        "address 10.0.0.1/99",
    )
    assert "prefix length" in first.detail
    assert (second.errno, second.index) == (errno.EEXIST, 3)


def test_links_that_are_not_there(near: NetNamespace) -> None:
    def inside() -> None:
        with RtNetlink() as rt:
            assert rt.link("nothing") is None
            assert rt.link(4711) is None
            with pytest.raises(NetlinkError, match=r"RTM_DELLINK link nothing: No such device \(ENODEV\)"):
                rt.batch([netlink.delete_link("nothing")])

    near.run(inside)


def test_veth_into_a_namespace_that_is_none(near: NetNamespace) -> None:
    def inside() -> None:
        with RtNetlink() as rt, open(os.devnull) as file:
            with pytest.raises(NetlinkError, match="RTM_NEWLINK veth v0"):
                rt.batch([netlink.veth("v0", "eth0", netns_fd=file.fileno())])
            assert rt.link("v0") is None

    near.run(inside)


def test_group_is_deleted_at_once(near: NetNamespace) -> None:
    def inside() -> None:
        with RtNetlink() as rt:
            rt.batch([netlink.bridge(f"br{number}") for number in range(3)])
            rt.batch([netlink.set_link(f"br{number}", group=77) for number in range(2)])
            rt.batch([netlink.delete_group(77)])
            assert {link.name for link in rt.links()} == {"lo", "br2"}

    near.run(inside)


def test_many_messages_in_one_batch(near: NetNamespace) -> None:
    def inside() -> None:
        with RtNetlink() as rt:
            addresses = [(f"10.1.{number >> 8}.{number & 255}", 32) for number in range(2000)]
            rt.batch([netlink.address(1, *one) for one in addresses])
            found = {(one.address, one.prefix_len) for one in rt.addresses(socket.AF_INET, 1)}
            assert found >= set(addresses)
            rt.batch([netlink.delete_address(1, *one) for one in addresses])
            assert len(rt.addresses(socket.AF_INET, 1)) == 1

    near.run(inside)


def test_batch_that_fails_everywhere_reports_the_first(near: NetNamespace) -> None:
    def inside() -> None:
        with RtNetlink() as rt:
            errors = rt.attempt([netlink.delete_link("nothing")] * 300)
            assert [error.index for error in errors] == list(range(300))
            rt.batch([netlink.lo_up()])

    near.run(inside)


def _fill(count: int) -> None:
    with NfTables() as nft:
        nft.transaction(
            [
                nftables.add_table(NFPROTO_INET, TABLE),
                nftables.add_set(NFPROTO_INET, TABLE, "ports", [(nftables.TYPE_SERVICE, 2)]),
                *nftables.add_elements(
                    NFPROTO_INET, TABLE, "ports", [Element(number.to_bytes(2, "big")) for number in range(count)]
                ),
            ]
        )


def test_transaction_of_many_elements(near: NetNamespace) -> None:
    near.run(_fill, 20_000)

    def count() -> int:
        with NfTables() as nft:
            return len(nft.elements(NFPROTO_INET, TABLE, "ports"))

    assert near.run(count) == 20_000


def test_transaction_is_all_or_nothing(near: NetNamespace) -> None:
    def inside() -> None:
        with NfTables() as nft:
            rule = nftables.add_rule(NFPROTO_INET, TABLE, "nowhere", [nftables.verdict(nftables.NF_ACCEPT)])
            with pytest.raises(NetlinkError, match=r"NFT_MSG_NEWRULE rule in nowhere: .*\(ENOENT\)") as caught:
                nft.transaction([nftables.add_table(NFPROTO_INET, TABLE), rule])
            assert caught.value.index == 1
            assert nft.tables() == []

    near.run(inside)


def test_transaction_that_fails_everywhere_names_the_first(near: NetNamespace) -> None:
    def inside() -> None:
        with NfTables() as nft:
            bad = nftables.add_elements(NFPROTO_INET, TABLE, "nothing", [Element(b"\0\1")])
            with pytest.raises(NetlinkError) as caught:
                nft.transaction([nftables.add_table(NFPROTO_INET, TABLE), *bad * 1000])
            assert (caught.value.errno, caught.value.index) == (errno.ENOENT, 1)
            nft.transaction([nftables.add_table(NFPROTO_INET, TABLE)])

    near.run(inside)


def test_generation_tells_of_others(near: NetNamespace) -> None:
    def inside() -> None:
        with NfTables() as ours, NfTables() as theirs:
            before = ours.generation()
            ours.transaction([nftables.add_table(NFPROTO_INET, TABLE)], before)
            assert ours.generation() == before + 1
            theirs.transaction([nftables.add_table(NFPROTO_INET, "other")])
            with pytest.raises(NetlinkError) as caught:
                ours.transaction([nftables.delete_table(NFPROTO_INET, TABLE)], before + 1)
            assert (caught.value.errno, caught.value.index) == (errno.ERESTART, -1)
            assert ours.tables() == [TABLE, "other"]

    near.run(inside)


def test_elements_of_a_table_that_is_gone(near: NetNamespace) -> None:
    def inside() -> None:
        with NfTables() as nft:
            assert nft.rules(NFPROTO_INET, TABLE) == []
            with pytest.raises(NetlinkError) as caught:
                nft.elements(NFPROTO_INET, TABLE, "ports")
            assert caught.value.errno == errno.ENOENT

    near.run(inside)


EXPECTED = """\
table inet bireme_test {
	set bridges {
		type ifname
		elements = { "br0" }
	}

	set same_bridge {
		type ifname . ifname
		elements = { "br0" . "br0" }
	}

	set subnets4 {
		type ipv4_addr
		flags interval
		elements = { 172.17.0.0/16 }
	}

	map ports4 {
		type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
		elements = { 127.0.0.1 . udp . 53 : 172.17.0.2 . 5353 }
	}

	map any_ports4 {
		type inet_proto . inet_service : ipv4_addr . inet_service
		elements = { tcp . 8080 : 172.17.0.2 . 80 }
	}

	chain published {
		dnat ip to ip daddr . meta l4proto . th dport map @ports4
		meta nfproto ipv4 dnat ip to meta l4proto . th dport map @any_ports4
	}

	chain inward {
		ct state established,related accept
		ct status dnat accept
		iifname . oifname @same_bridge accept
		drop
	}

	chain guard {
		type filter hook prerouting priority raw; policy accept;
		iifname @bridges ip daddr 127.0.0.0/8 drop
		iifname @bridges ip saddr 127.0.0.0/8 drop
	}

	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr != 127.0.0.0/8 fib daddr type local goto published
	}

	chain output {
		type nat hook output priority -100; policy accept;
		meta nfproto ipv4 fib daddr type local goto published
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		oifname @bridges jump inward
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr @subnets4 oifname != @bridges masquerade
		ct status dnat ip saddr @subnets4 oifname @bridges masquerade
		ip saddr 127.0.0.0/8 oifname @bridges masquerade
	}
}
"""


def _words(text: str) -> list[str]:
    """Spelling differs a little between versions of nft: white space, and numbers for priorities with a name."""
    return text.replace("priority -100", "priority dstnat").split()


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
def test_nft_reads_what_was_meant(near: NetNamespace) -> None:
    def inside() -> str:
        networks = [Network("br0", "172.17.0.0/16")]
        ports = [
            Forwarding("0.0.0.0", "tcp", 8080, "172.17.0.2", 80),
            Forwarding("127.0.0.1", "udp", 53, "172.17.0.2", 5353),
        ]
        with NfTables() as nft:
            nft.transaction(plan_table("test", networks, ports))
        command = ["nft", "list", "table", "inet", TABLE]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert _words(near.run(inside)) == _words(EXPECTED)


@pytest.mark.skipif(shutil.which("ip") is None, reason="ip is not installed")
def test_ip_reads_the_same(near: NetNamespace, far: NetNamespace) -> None:
    near.run(_bridge_and_veth, far)

    def inside() -> None:
        command = ["ip", "-json", "-details", "link"]
        shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        with RtNetlink() as rt:
            links = {link.ifindex: link for link in rt.links()}
        assert {one["ifindex"] for one in shown} == set(links)
        for one in shown:
            link = links[one["ifindex"]]
            assert (one["ifname"], one["mtu"], one["address"]) == (link.name, link.mtu, link.mac)
            assert one.get("linkinfo", {}).get("info_kind", "") == link.kind
            assert ("UP" in one["flags"]) == link.is_up
            if link.name == "v0":
                assert one["linkinfo"]["info_slave_data"]["hairpin"] is True

    near.run(inside)
