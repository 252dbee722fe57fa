"""The bridge network in namespaces of its own: a host, a client on the wire, instances behind the bridge."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bireme.errors import Conflict, Unavailable
from bireme.instance.spec import PortRequest
from bireme.linux.capabilities import set_sets
from bireme.linux.netlink import RtNetlink, delete_address, delete_link, link_down, route, set_link
from bireme.linux.nftables import NFPROTO_INET, NFPROTO_IPV4, NfTables, add_base_chain, add_table, delete_table
from bireme.network.bridge import BridgeNetwork
from bireme.network.driver import BridgeConfig
from bireme.network.firewall import table_name
from tests.support.netns import NetNamespace, fetch
from tests.support.pace import eventually, patience
from tests.support.scene import CLIENT, HOST, RelayProcess, Scene, open_scene

pytestmark = pytest.mark.needs_root

TIMEOUT_S = 0.7
"""How long a connection that must not succeed is tried: packets are dropped, not refused."""


@pytest.fixture
def scene() -> Iterator[Scene]:
    with open_scene() as opened:
        yield opened


def _tables(family: int = NFPROTO_INET) -> list[str]:
    with NfTables() as nft:
        return nft.tables(family)


def _rule_count(network: BridgeNetwork) -> int:
    with NfTables() as nft:
        return len(nft.rules(NFPROTO_INET, table_name(network.tag)))


def _element_count(network: BridgeNetwork, name: str) -> int:
    with NfTables() as nft:
        return len(nft.elements(NFPROTO_INET, table_name(network.tag), name))


def _link(name: str) -> object:
    with RtNetlink() as netlink:
        return netlink.link(name)


def _unreachable(address: str, port: int) -> bool:
    try:
        fetch(address, port, timeout_s=TIMEOUT_S)
    except OSError:
        return True
    return False


def test_instance_reaches_outside_with_the_hosts_address(scene: Scene) -> None:
    network = scene.network()
    one = scene.instance(network)
    scene.serve(scene.client, 7000)
    assert one.namespace.run(fetch, CLIENT, 7000) == f" {HOST} hello".encode()


def test_ping_to_the_outside(scene: Scene) -> None:
    one = scene.instance(scene.network())
    assert one.namespace.run(_ping, CLIENT) == CLIENT


def _ping(address: str) -> str:
    """Send one echo request; who answered it."""
    request = bytes.fromhex("0800 f7f4 0001 000a")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(patience(10))
        sock.sendto(request, (address, 0))
        while True:
            packet, sender = sock.recvfrom(1000)
            if packet[20] == 0 and packet[24:28] == request[4:]:
                return str(sender[0])


def test_instance_reaches_the_gateway_and_its_neighbours_with_its_own_address(scene: Scene) -> None:
    network = scene.network()
    one, two = scene.instance(network, "one"), scene.instance(network, "two")
    scene.serve(scene.host, 7000)
    scene.serve(two.namespace, 80)
    assert one.namespace.run(fetch, network.gateway, 7000) == f" {one.address} hello".encode()
    assert one.namespace.run(fetch, two.address, 80) == f" {one.address} hello".encode()


def test_published_port_from_outside_shows_the_clients_address(scene: Scene) -> None:
    one = scene.instance(scene.network())
    scene.serve(one.namespace, 80)
    published = scene.publish(one, PortRequest(container_port=80, host_port=8080))
    assert {(m.host_ip, m.host_port) for m in published.mappings} == {("0.0.0.0", 8080), ("::", 8080)}
    assert scene.client.run(fetch, HOST, 8080) == f" {CLIENT} hello".encode()


@pytest.mark.parametrize("reverse_path_filter", ["0", "1"])
def test_published_port_from_the_host_itself(scene: Scene, reverse_path_filter: str) -> None:
    scene.host.run(Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text, reverse_path_filter)
    network = scene.network()
    one = scene.instance(network)
    scene.serve(one.namespace, 80)
    scene.publish(one, PortRequest(container_port=80, host_port=8080))
    assert scene.host.run(fetch, "127.0.0.1", 8080) == f" {network.gateway} hello".encode()
    assert scene.host.run(fetch, HOST, 8080).endswith(b"hello")
    assert scene.host.run(fetch, network.gateway, 8080).endswith(b"hello")


@pytest.mark.parametrize("bridge_netfilter", ["0", "1"])
def test_hairpin_to_itself_and_to_a_neighbour(scene: Scene, bridge_netfilter: str) -> None:
    _use_bridge_netfilter(scene, bridge_netfilter)
    network = scene.network()
    one, two = scene.instance(network, "one"), scene.instance(network, "two")
    scene.serve(one.namespace, 80)
    scene.publish(one, PortRequest(container_port=80, host_port=8080))
    for namespace in (one.namespace, two.namespace):
        for address in (HOST, network.gateway):
            for _ in range(5):  # an ICMP redirect would break the second one
                assert namespace.run(fetch, address, 8080).endswith(b"hello")


def test_port_on_one_address_is_not_open_on_others(scene: Scene) -> None:
    one = scene.instance(scene.network())
    scene.serve(one.namespace, 80)
    scene.publish(one, PortRequest(container_port=80, host_ip="127.0.0.1", host_port=8080))
    assert scene.host.run(fetch, "127.0.0.1", 8080).endswith(b"hello")
    assert scene.client.run(_unreachable, HOST, 8080)
    scene.publish(one, PortRequest(container_port=80, host_ip=HOST, host_port=8081))
    assert scene.client.run(fetch, HOST, 8081).endswith(b"hello")
    assert scene.host.run(_unreachable, "127.0.0.1", 8081)


def test_neighbour_on_the_wire_reaches_published_ports_only(scene: Scene) -> None:
    one = scene.instance(scene.network())
    scene.route_to("172.16.0.0", 12)
    scene.serve(one.namespace, 80)
    scene.publish(one, PortRequest(container_port=80, host_port=8080))
    assert scene.client.run(fetch, HOST, 8080).endswith(b"hello")
    assert scene.client.run(_unreachable, one.address, 80)


def test_loopback_port_is_closed_to_a_neighbour_who_sends_to_127(scene: Scene) -> None:
    one = scene.instance(scene.network())
    scene.serve(one.namespace, 80)
    scene.publish(one, PortRequest(container_port=80, host_ip="127.0.0.1", host_port=8080))
    _send_loopback_to(scene.client, "up1", HOST)
    assert scene.client.run(_unreachable, "127.0.0.1", 8080)


def _send_loopback_to(namespace: NetNamespace, interface: str, gateway: str) -> None:
    """Let 127.0.0.1 leave a namespace, as an attacker's crafted packets would."""

    def arrange() -> None:
        with RtNetlink() as netlink:
            Path(f"/proc/sys/net/ipv4/conf/{interface}/route_localnet").write_text("1")
            netlink.batch([link_down(1)])
            netlink.attempt([delete_address(1, "127.0.0.1", 8)])
            netlink.batch([route(gateway, destination="127.0.0.0", prefix_len=8)])

    namespace.run(arrange)


def test_loopback_of_the_host_is_closed_to_instances(scene: Scene) -> None:
    network = scene.network()
    one, two = scene.instance(network, "one"), scene.instance(network, "two")
    scene.serve(scene.host, 7000, "127.0.0.1")
    scene.serve(two.namespace, 80)
    scene.publish(two, PortRequest(container_port=80, host_ip="127.0.0.1", host_port=8080))
    _send_loopback_to(one.namespace, "eth0", network.gateway)
    assert scene.host.run(fetch, "127.0.0.1", 7000).endswith(b"hello")
    assert one.namespace.run(_unreachable, "127.0.0.1", 7000)
    assert one.namespace.run(_unreachable, "127.0.0.1", 8080)


def test_instance_cannot_pose_as_the_hosts_loopback(scene: Scene) -> None:
    network = scene.network()
    one = scene.instance(network)
    server = scene.host.run(_datagram_socket, "0.0.0.0")
    scene.stack.callback(server.close)
    one.namespace.run(Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text, "1")
    for source in ("127.0.0.1", "127.0.0.2", one.address):
        sender = one.namespace.run(_datagram_socket, source)
        scene.stack.callback(sender.close)
        sender.sendto(source.encode(), (network.gateway, server.getsockname()[1]))
    assert server.recv(100) == one.address.encode()


def _datagram_socket(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(patience(10))
    sock.bind((address, 0))
    return sock


def test_no_redirect_reaches_an_instance(scene: Scene) -> None:
    network = scene.network()
    one, two = scene.instance(network, "one"), scene.instance(network, "two")
    scene.serve(one.namespace, 80)
    scene.publish(one, PortRequest(container_port=80, host_port=8080))
    _use_bridge_netfilter(scene, "0")
    listener = two.namespace.run(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    scene.stack.callback(listener.close)
    listener.setblocking(False)
    for _ in range(3):
        assert two.namespace.run(fetch, HOST, 8080).endswith(b"hello")
    with pytest.raises(BlockingIOError):
        listener.recv(1000)


def _use_bridge_netfilter(scene: Scene, value: str) -> None:
    setting = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if setting.exists():
        scene.host.run(setting.write_text, value)


def test_udp_ports(scene: Scene) -> None:
    one = scene.instance(scene.network())
    scene.serve_datagrams(one.namespace, 53)
    scene.publish(one, PortRequest(container_port=53, host_port=5353, protocol="udp"))
    assert scene.client.run(_ask, HOST, 5353) == f"{CLIENT} hello".encode()
    assert scene.host.run(_ask, "127.0.0.1", 5353).endswith(b"hello")


def test_udp_client_that_never_pauses_follows_the_port(scene: Scene) -> None:
    network = scene.network()
    one, two = scene.instance(network, "one"), scene.instance(network, "two")
    scene.serve_datagrams(one.namespace, 53)
    scene.serve_datagrams(two.namespace, 54)
    client = scene.client.run(_datagram_socket, CLIENT)
    scene.stack.callback(client.close)
    client.connect((HOST, 5353))
    first = scene.publish(one, PortRequest(container_port=53, host_port=5353, protocol="udp"))
    eventually(lambda: _exchange(client, f"{CLIENT} 53".encode()))
    first.close()
    scene.host.run(network.unpublish, one.id)
    second = scene.publish(two, PortRequest(container_port=54, host_port=5353, protocol="udp"))
    eventually(lambda: _exchange(client, f"{CLIENT} 54".encode()))
    second.close()
    scene.host.run(network.unpublish, two.id)
    eventually(lambda: _exchange(client, b""))


def _exchange(client: socket.socket, expected: bytes) -> bool:
    """One datagram and its answer, while nothing pauses; no answer counts as an empty one."""
    client.settimeout(patience(0.2))
    try:
        client.send(expected.rpartition(b" ")[2] or b"anybody")
        return client.recv(100) == expected
    except (TimeoutError, ConnectionRefusedError):
        return expected == b""


def _ask(address: str, port: int, timeout_s: float = 5.0) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(patience(timeout_s))
        sock.connect((address, port))
        sock.send(b"hello")
        return sock.recv(65536)


def test_two_bridges_are_strangers_but_share_published_ports(scene: Scene) -> None:
    tag = secrets.token_hex(3)
    first = scene.network(tag, f"bra{tag}")
    second = BridgeNetwork(BridgeConfig(tag=tag, bridge=f"brb{tag}", name="second"), first.firewall)
    scene.host.run(second.ensure)
    scene.stack.callback(second.close)
    assert first.subnet != second.subnet
    one, two = scene.instance(first, "one"), scene.instance(second, "two")
    scene.serve(two.namespace, 80)
    assert one.namespace.run(_unreachable, two.address, 80)
    scene.publish(two, PortRequest(container_port=80, host_port=8080))
    assert one.namespace.run(fetch, HOST, 8080).endswith(b"hello")
    assert one.namespace.run(_unreachable, two.address, 80)
    scene.host.run(second.teardown)
    assert scene.host.run(_tables) == [table_name(tag)]
    scene.host.run(first.teardown)
    assert scene.host.run(_tables) == []


def test_two_engines_do_not_touch_each_other(scene: Scene) -> None:
    first, second = scene.network(), scene.network()
    one, two = scene.instance(first, "one"), scene.instance(second, "two")
    scene.serve(one.namespace, 80, greeting="one")
    scene.serve(two.namespace, 80, greeting="two")
    scene.publish(one, PortRequest(container_port=80, host_port=8081))
    scene.publish(two, PortRequest(container_port=80, host_port=8082))
    assert scene.client.run(fetch, HOST, 8081).startswith(b"one")
    assert scene.client.run(fetch, HOST, 8082).startswith(b"two")
    assert one.namespace.run(fetch, HOST, 8082).startswith(b"two")
    assert one.namespace.run(_unreachable, two.address, 80)
    rules = scene.host.run(_rule_count, second)
    scene.host.run(first.teardown)
    assert scene.host.run(_tables) == [table_name(second.tag)]
    assert scene.host.run(_rule_count, second) == rules
    assert scene.host.run(_link, second.bridge) is not None
    assert scene.client.run(fetch, HOST, 8082).startswith(b"two")


def test_conflicts_name_the_port(scene: Scene) -> None:
    network = scene.network()
    one, two = scene.instance(network, "one"), scene.instance(network, "two")
    scene.publish(one, PortRequest(container_port=80, host_port=8080))
    with pytest.raises(Conflict, match=r"Bind for 0\.0\.0\.0:8080 failed: port is already allocated"):
        scene.publish(two, PortRequest(container_port=80, host_port=8080))
    scene.serve(scene.host, 9090)
    shown = (
        r"driver failed programming external connectivity on endpoint web \(.*\): failed to bind host port for "
        rf"0\.0\.0\.0:9090:{two.address}:80/tcp: address already in use"
    )
    with pytest.raises(Conflict, match=shown):
        scene.publish(
            two, PortRequest(container_port=81, host_port=8082), PortRequest(container_port=80, host_port=9090)
        )
    scene.publish(two, PortRequest(container_port=81, host_port=8082))


def test_ports_are_free_again_after_unpublish(scene: Scene) -> None:
    network = scene.network()
    one = scene.instance(network)
    scene.serve(one.namespace, 80)
    published = scene.publish(one, PortRequest(container_port=80, host_port=8080))
    published.close()
    scene.host.run(network.unpublish, one.id)
    scene.host.run(network.unpublish, one.id)
    assert scene.host.run(_element_count, network, "any_ports4") == 0
    assert scene.client.run(_unreachable, HOST, 8080)
    scene.publish(one, PortRequest(container_port=80, host_port=8080))
    assert scene.client.run(fetch, HOST, 8080).endswith(b"hello")


def test_a_thousand_ports_are_elements(scene: Scene) -> None:
    network = scene.network()
    one = scene.instance(network)
    rules = scene.host.run(_rule_count, network)
    requests = [PortRequest(container_port=80, host_ip="0.0.0.0", host_port=20000 + number) for number in range(1000)]
    scene.publish(one, *requests)
    assert scene.host.run(_rule_count, network) == rules
    assert scene.host.run(_element_count, network, "any_ports4") == 1000
    scene.serve(one.namespace, 80)
    assert scene.client.run(fetch, HOST, 20999).endswith(b"hello")


@pytest.mark.parametrize("damage", ["delete table", "link down", "no address", "no bridge"])
def test_ensure_repairs(scene: Scene, damage: str) -> None:
    network = scene.network()
    one = scene.instance(network)
    scene.serve(one.namespace, 80)
    scene.publish(one, PortRequest(container_port=80, host_port=8080))
    scene.host.run(_break, network, damage)
    scene.host.run(network.ensure)
    if damage == "no bridge":
        one = scene.instance(network, "two")
        scene.serve(one.namespace, 80)
        scene.publish(one, PortRequest(container_port=80, host_port=8081))
    assert scene.client.run(fetch, HOST, 8081 if damage == "no bridge" else 8080).endswith(b"hello")


def _break(network: BridgeNetwork, damage: str) -> None:
    with RtNetlink() as netlink, NfTables() as nft:
        link = netlink.link(network.bridge)
        assert link is not None
        if damage == "delete table":
            nft.transaction([delete_table(NFPROTO_INET, table_name(network.tag))])
        elif damage == "link down":
            netlink.batch([set_link(link.ifindex, up=False)])
        elif damage == "no address":
            netlink.batch([delete_address(link.ifindex, network.gateway, 16)])
        else:
            netlink.batch([delete_link(link.ifindex)])


def test_publish_repairs_a_flushed_table(scene: Scene) -> None:
    network = scene.network()
    one = scene.instance(network)
    scene.serve(one.namespace, 80)
    scene.publish(one, PortRequest(container_port=80, host_port=8080))
    scene.host.run(_break, network, "delete table")
    scene.publish(one, PortRequest(container_port=80, host_port=8081))
    for port in (8080, 8081):
        assert scene.client.run(fetch, HOST, port).endswith(b"hello")


def test_a_new_engine_takes_over(scene: Scene) -> None:
    first = scene.network()
    one = scene.instance(first)
    scene.serve(one.namespace, 80)
    published = scene.publish(one, PortRequest(container_port=80, host_port=8080))
    second = scene.network(first.tag, first.bridge, ensure=False)
    scene.host.run(second.restore, one.id, one.endpoint, published.mappings)
    scene.host.run(second.ensure)
    assert second.subnet == first.subnet
    assert scene.client.run(fetch, HOST, 8080).endswith(b"hello")
    assert scene.host.run(second.allocate, "other").address != one.address
    assert scene.host.run(second.allocate, one.id) == one.endpoint
    scene.host.run(second.release, one.id)
    assert scene.host.run(_element_count, second, "any_ports4") == 0


def test_teardown_leaves_nothing(scene: Scene) -> None:
    network = scene.network()
    one = scene.instance(network)
    scene.publish(one, PortRequest(container_port=80, host_port=8080))
    for _ in range(2):
        scene.host.run(network.teardown)
        assert scene.host.run(_tables) == []
        assert scene.host.run(_link, network.bridge) is None


def test_name_that_is_no_bridge_is_refused(scene: Scene) -> None:
    network = scene.network(bridge="up0", ensure=False)
    with pytest.raises(Conflict, match="not a bridge"):
        scene.host.run(network.ensure)


def test_without_rights_it_says_what_is_missing(scene: Scene) -> None:
    network = scene.network(ensure=False)
    failures: list[BaseException] = []

    def try_it() -> None:
        set_sets(0, 0, 0)
        try:
            network.ensure()
        except Unavailable as error:
            failures.append(error)

    scene.host.start(try_it).join(patience(20))
    assert "Operation not permitted" in str(failures[0])


def test_a_foreign_forward_policy_is_named(scene: Scene) -> None:
    network = scene.network()
    assert scene.host.run(network.warnings) == []

    def add_foreign() -> None:
        with NfTables() as nft:
            chain = add_base_chain(NFPROTO_IPV4, "filter", "FORWARD", kind="filter", hook=2, priority=0, policy=0)
            nft.transaction([add_table(NFPROTO_IPV4, "filter"), chain])

    scene.host.run(add_foreign)
    (warning,) = scene.host.run(network.warnings)
    assert warning.startswith("chain ip filter FORWARD drops")
    scene.host.run(network.teardown)
    with_foreign = scene.host.run(_tables, NFPROTO_IPV4)
    assert with_foreign == ["filter"]


def test_many_threads_publish_at_once(scene: Scene) -> None:
    network = scene.network()
    instances = [scene.instance(network, f"i{number}") for number in range(4)]

    def churn(number: int) -> None:
        one = instances[number]
        for _ in range(25):
            published = network.publish(one.id, one.endpoint, [PortRequest(container_port=80)] * 2)
            published.close()
            network.unpublish(one.id)

    threads = [scene.host.start(churn, number) for number in range(4)]
    for thread in threads:
        thread.join(patience(60))
        assert not thread.is_alive()
    assert scene.host.run(_element_count, network, "any_ports4") == 0


def test_relay_serves_ipv6_and_holds_the_ports(scene: Scene) -> None:
    network = scene.network()
    one = scene.instance(network)
    scene.serve(one.namespace, 80)
    scene.serve_datagrams(one.namespace, 53)
    published = scene.publish(
        one,
        PortRequest(container_port=80, host_port=8080),
        PortRequest(container_port=53, host_port=5353, protocol="udp"),
    )
    with RelayProcess(scene.host) as relay:
        relay.hold(one.id, published)
        assert scene.host.run(fetch, "::1", 8080) == f" {network.gateway} hello".encode()
        assert scene.host.run(_ask, "::1", 5353) == f"{network.gateway} hello".encode()
        with pytest.raises(Conflict):
            scene.publish(one, PortRequest(container_port=80, host_port=8080))
        scene.host.run(_break, network, "delete table")
        assert scene.host.run(fetch, "127.0.0.1", 8080).endswith(b"hello")
        assert relay.call("relay_remove", id=one.id) == {"rid": 2, "ok": {}}
        scene.host.run(network.unpublish, one.id)
        scene.publish(one, PortRequest(container_port=80, host_port=8080))
    reopened = scene.host.run(network.reopen, one.id)
    assert reopened.sockets == ()


def test_relay_process_has_no_rights(scene: Scene) -> None:
    with RelayProcess(scene.host) as relay:
        relay.call("ping")
        status = Path(f"/proc/{relay.pid}/status").read_text()
        lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert [int(lines[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")] == [0] * 5
        assert lines["NoNewPrivs"] == "1"
        assert lines["Uid"].split() == ["65534"] * 4
        assert lines["Gid"].split() == ["65534"] * 4
        assert lines["Groups"].strip() == ""
        assert list(Path(f"/proc/{relay.pid}/root").iterdir()) == []
        assert len(list(Path(f"/proc/{relay.pid}/fd").iterdir())) <= 5  # standard ones, control, epoll


def test_relay_ends_with_its_supervisor(scene: Scene) -> None:
    relay = RelayProcess(scene.host)
    relay.call("ping")
    ended = threading.Event()
    relay.control.close()

    def wait() -> None:
        os.waitid(os.P_PID, relay.pid, os.WEXITED | os.WNOWAIT)
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    assert ended.wait(patience(20))
    relay.close()
