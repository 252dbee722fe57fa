"""What of the bridge network needs no kernel."""

from __future__ import annotations

import ipaddress

import pytest

from bireme.errors import Conflict, Invalid, Unavailable
from bireme.instance.driver import Endpoint
from bireme.instance.spec import PortRequest
from bireme.network.bridge import BridgeNetwork, candidate_subnets, choose_subnet
from bireme.network.driver import BridgeConfig, Network
from bireme.network.host import HostNetwork
from bireme.network.null import NullNetwork
from bireme.network.sandbox import plan_sandbox


def test_first_subnet_is_dockers() -> None:
    assert str(choose_subnet([])) == "172.17.0.0/16"


def test_subnets_the_host_uses_are_avoided() -> None:
    used = [ipaddress.IPv4Network("172.17.5.0/24"), ipaddress.IPv4Network("172.18.0.0/15")]
    assert str(choose_subnet(used)) == "172.20.0.0/16"
    assert str(choose_subnet([ipaddress.IPv4Network("172.16.0.0/12")])) == "192.168.0.0/20"
    assert len(candidate_subnets()) == 15 + 16
    with pytest.raises(Unavailable):
        choose_subnet([ipaddress.IPv4Network("172.16.0.0/12"), ipaddress.IPv4Network("192.168.0.0/16")])


@pytest.mark.parametrize("name", ["", "a" * 16, "../x", ".", "a b"])
def test_interface_names(name: str) -> None:
    with pytest.raises(Invalid):
        BridgeNetwork(BridgeConfig(tag="abc", bridge=name))


@pytest.mark.parametrize("subnet", ["nonsense", "172.17.0.1/16", "fd00::/64", "10.0.0.0/31"])
def test_bad_subnets(subnet: str) -> None:
    with pytest.raises(Invalid):
        BridgeNetwork(BridgeConfig(tag="abc", subnet=subnet))


@pytest.mark.parametrize("mac", ["nonsense", "01:00:5e:00:00:01", "00:00:00:00:00:00"])
def test_bad_macs(mac: str) -> None:
    with pytest.raises(Invalid):
        BridgeNetwork(BridgeConfig(tag="abc")).allocate("a", mac=mac)


def test_two_instances_cannot_be_restored_with_one_address() -> None:
    network = BridgeNetwork(BridgeConfig(tag="abc"))
    endpoint = Endpoint(network="bridge", address="172.17.0.2", prefix_len=16)
    network.restore("a", endpoint)
    network.restore("a", endpoint)
    with pytest.raises(Conflict):
        network.restore("b", endpoint)


def test_nothing_is_opened_for_bad_requests_or_without_an_address() -> None:
    network = BridgeNetwork(BridgeConfig(tag="abc"))
    with pytest.raises(Invalid):
        network.publish("a", Endpoint(network="bridge", address="172.17.0.2"), [PortRequest(container_port=0)])
    with pytest.raises(Invalid, match="has no address"):
        network.publish("a", None, [PortRequest(container_port=80)])
    assert network.publish("a", None, []).mappings == ()


@pytest.mark.parametrize("network", [NullNetwork(), HostNetwork()])
def test_networks_without_an_interface(network: Network) -> None:
    network.ensure()
    assert network.allocate("a") is None
    assert network.publish("a", None, [PortRequest(container_port=80, host_port=80)]) == network.reopen("a")
    with pytest.raises(Invalid):
        network.allocate("a", address="172.17.0.2")
    with pytest.raises(Invalid):
        network.allocate("a", mac="02:42:ac:11:00:02")
    network.unpublish("a")
    network.release("a")
    network.teardown()


def test_bridge_is_a_network() -> None:
    network: Network = BridgeNetwork(BridgeConfig(tag="abc"))
    assert network.name == "bridge"


def test_only_the_first_endpoint_gives_the_default_route() -> None:
    first = Endpoint(network="bridge", bridge="b0", address="172.17.0.2", prefix_len=16, gateway="172.17.0.1", mac="x")
    second = Endpoint(
        network="other", interface="eth1", bridge="b1", address="10.0.0.2", prefix_len=8, gateway="10.0.0.1"
    )
    planned = plan_sandbox([first, second])["interfaces"]
    assert [one["gateway"] for one in planned] == ["172.17.0.1", ""]
    assert planned[0] == {
        "name": "eth0",
        "bridge": "b0",
        "address": "172.17.0.2",
        "prefix_len": 16,
        "gateway": "172.17.0.1",
        "mac": "x",
        "mtu": 1500,
    }
