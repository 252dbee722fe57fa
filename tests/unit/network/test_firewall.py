"""The plan of the table: pure, so everything about it but the kernel's opinion is checked here."""

from __future__ import annotations

import pytest

from bireme.linux import nftables as nft
from bireme.network.firewall import Forwarding, Network, elements_of, plan_change, plan_removal, plan_table, table_name

NETWORKS = [Network("bireme0", "172.17.0.0/16"), Network("br-two", "172.18.0.0/16")]


def _web(port: int, host_ip: str = "0.0.0.0") -> Forwarding:
    return Forwarding(host_ip, "tcp", port, "172.17.0.2", 80)


def test_number_of_rules_depends_on_nothing() -> None:
    def rules(networks: list[Network], ports: int) -> int:
        messages = plan_table("abc", networks, [_web(1000 + number) for number in range(ports)])
        return sum(about.startswith("rule") for *_, about in messages)

    assert rules([], 0) == rules(NETWORKS, 0) == rules(NETWORKS, 2000)


def test_plan_replaces_the_table_in_one_go() -> None:
    messages = plan_table("abc", NETWORKS, [])
    kinds = [kind & 0xFF for kind, *_ in messages[:3]]
    assert kinds == [0, 2, 0]  # add (so that it exists), delete, add
    assert messages[:2] == plan_removal("abc")
    assert all(about.startswith(("table", "chain", "set", "rule", "elements")) for *_, about in messages)
    assert table_name("abc") == "bireme_abc"


def test_elements() -> None:
    found = elements_of(NETWORKS[:1], [_web(8080), _web(8081, "127.0.0.1"), Forwarding("", "udp", 53, "172.17.0.3", 5)])
    name = b"bireme0".ljust(16, b"\0")
    assert found["bridges"] == [nft.Element(name)]
    assert found["same_bridge"] == [nft.Element(name + name)]
    assert found["subnets4"] == [
        nft.Element(b"\xac\x11\0\0"),
        nft.Element(b"\xac\x12\0\0", flags=nft.NFT_SET_ELEM_INTERVAL_END),
    ]
    assert found["any_ports4"] == [
        nft.Element(bytes.fromhex("06000000 1f900000"), bytes.fromhex("ac110002 00500000")),
        nft.Element(bytes.fromhex("11000000 00350000"), bytes.fromhex("ac110003 00050000")),
    ]
    assert found["ports4"] == [
        nft.Element(bytes.fromhex("7f000001 06000000 1f910000"), bytes.fromhex("ac110002 00500000"))
    ]


def test_change_is_one_message_per_map() -> None:
    assert plan_change("abc") == []
    assert len(plan_change("abc", [_web(1), _web(2)])) == 1
    assert len(plan_change("abc", [_web(1), _web(2, "127.0.0.1")], [_web(3)])) == 3


def test_removal_names_the_key_alone() -> None:
    (add,) = plan_change("abc", [_web(8080)])
    (remove,) = plan_change("abc", (), [_web(8080)])
    assert bytes.fromhex("ac11000200500000") in add[2]
    assert bytes.fromhex("ac11000200500000") not in remove[2]


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_protocols(protocol: str) -> None:
    assert elements_of((), [Forwarding("", protocol, 1, "172.17.0.2", 1)])["any_ports4"]
