"""Instances on a bridge, from spares and on the cold path, in a network namespace of the test; and published ports."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from bireme.errors import Unavailable
from bireme.linux import netlink
from tests.support.netns import NetNamespace
from tests.support.supervised import Rig, wait_until
from tests.support.supervision import Client, Failure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs_root

BRIDGE = "br-test"
GATEWAY = "172.31.7.1"


def make_bridge() -> None:
    with netlink.RtNetlink() as route:
        route.batch([netlink.bridge(BRIDGE, mac="02:42:00:00:00:01")])
        link = route.link(BRIDGE)
        assert link is not None
        route.batch([netlink.address(link.ifindex, GATEWAY, 24)])


def links() -> list[str]:
    with netlink.RtNetlink() as route:
        return [link.name for link in route.links() if link.name not in ("lo", BRIDGE)]


@pytest.fixture
def outside() -> Iterator[NetNamespace]:
    with NetNamespace("outside") as made:
        made.run(make_bridge)
        yield made


@pytest.fixture(params=[3, 0], ids=["spares", "cold"])
def rig(request: pytest.FixtureRequest, tmp_path: Path, outside: NetNamespace) -> Iterator[Rig]:
    made = Rig(tmp_path, spares={"none": 0, "bridge": request.param}, bridge={"name": BRIDGE, "mtu": 1400})
    outside.run(made.start)
    yield made
    made.close()
    wait_until(lambda: outside.run(links) == [], "every veth to go")


def network(number: int, bridge: str = BRIDGE) -> dict[str, Any]:
    return {
        "interfaces": [
            {
                "name": "eth0",
                "bridge": bridge,
                "address": f"172.31.7.{number}",
                "prefix_len": 24,
                "gateway": GATEWAY,
                "mac": f"02:42:00:00:07:{number:02x}",
                "mtu": 1400,
            }
        ]
    }


def test_address_mac_mtu_and_gateway(rig: Rig, client: Client) -> None:
    wanted = rig.config["spares"]["bridge"]
    wait_until(lambda: len(rig.spares()) >= wanted, "spares")
    script = f"ip -o addr show eth0; ip link show eth0; ip route; ping -c 1 -w 5 {GATEWAY} >/dev/null && echo pong"
    for number in range(2, 8):
        identity = rig.launch(client, "/bin/sh", "-c", script, network=network(number))
        assert client.exited(identity)["code"] == 0
        text = rig.output(identity)
        assert f"inet 172.31.7.{number}/24" in text
        assert f"02:42:00:00:07:{number:02x}" in text
        assert "mtu 1400" in text
        assert f"default via {GATEWAY}" in text
        assert "pong" in text


def test_neighbours_and_counters(rig: Rig, client: Client) -> None:
    listener = rig.launch(client, "/bin/sh", "-c", "echo hello | nc -l -p 7000", network=network(2))
    caller = rig.launch(
        client, "/bin/sh", "-c", "until nc 172.31.7.2 7000 </dev/null; do sleep 0.05; done", network=network(3)
    )
    assert client.exited(listener)["code"] == 0
    client.exited(caller)
    assert rig.output(caller) == "hello\n"
    sleeper = rig.launch(client, "/bin/sh", "-c", f"ping -c 1 {GATEWAY}; sleep 1000", network=network(4))
    wait_until(lambda: "1 packets received" in rig.output(sleeper), "a ping")
    counters = client.call("stats", id=sleeper)["networks"]["eth0"]
    assert counters["rx_packets"] >= 1
    assert counters["tx_bytes"] > 0
    told = client.call("explain", id=sleeper)
    assert told["network"]["host_interface"].startswith(f"v{rig.tag}")
    client.call("signal", id=sleeper, signum=9, all=False)
    client.exited(sleeper)


def test_a_bridge_that_is_not_there(rig: Rig, client: Client) -> None:
    with pytest.raises(Failure) as caught:
        rig.launch(client, "/bin/true", network=network(2, "br-absent"))
    assert isinstance(caught.value.error, Unavailable)
    assert "br-absent" in str(caught.value)


def test_many_at_once(rig: Rig, client: Client) -> None:
    requests = [rig.request(rig.name(), "/bin/true", network=network(number)) for number in range(2, 22)]
    rids = [client.send("launch", **request) for request in requests]
    for rid in rids:
        client.answer(rid)
    for request in requests:
        assert client.exited(request["id"])["code"] == 0


def serve(outside: NetNamespace) -> tuple[int, socket.socket]:
    """An echo server in the test's namespace: its port."""
    server = outside.run(socket.create_server, ("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(connection.recv(100).upper())

    threading.Thread(target=run, daemon=True).start()
    return server.getsockname()[1], server


def ask(outside: NetNamespace, port: int) -> bytes:
    def connect() -> bytes:
        with socket.create_connection(("::1", port), timeout=30) as sock:
            sock.sendall(b"through")
            sock.shutdown(socket.SHUT_WR)
            return sock.recv(100)

    return outside.run(connect)


def test_published_ports_are_held_and_relayed_over_every_death(rig: Rig, client: Client, outside: NetNamespace) -> None:
    target, server = serve(outside)

    def listen() -> socket.socket:
        return socket.create_server(("::1", 0), family=socket.AF_INET6)

    listener = outside.run(listen)
    port = listener.getsockname()[1]
    entries = [{"listen": 0, "target": ["127.0.0.1", target]}]
    client.call_fds("relay_add", (listener.fileno(),), id="web", entries=entries)
    listener.close()
    assert ask(outside, port) == b"THROUGH"
    old = rig.helper("relay")
    os.kill(old, 9)
    wait_until(lambda: rig.helper("relay") not in (0, old), "a new relay")
    assert ask(outside, port) == b"THROUGH"
    supervisor = rig.pid("supervisor")
    os.kill(supervisor, 9)
    wait_until(lambda: rig.pid("supervisor") not in (0, supervisor), "a new supervisor")
    again = rig.connect()
    assert ask(outside, port) == b"THROUGH"
    keeper = rig.pid("keeper")
    os.kill(keeper, 9)
    wait_until(lambda: rig.pid("keeper") not in (0, keeper), "a new keeper")
    again = rig.connect()
    assert ask(outside, port) == b"THROUGH"
    again.call("relay_remove", id="web")
    with pytest.raises(ConnectionRefusedError):
        ask(outside, port)
    outside.run(socket.create_server, ("::1", port), family=socket.AF_INET6).close()
    server.close()
