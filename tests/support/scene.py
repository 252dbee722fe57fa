"""A small world for network tests: a host, a client on the wire beside it, and instances behind the host's bridge."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from bireme.instance.driver import Endpoint
from bireme.instance.spec import PortRequest
from bireme.linux import fd as fdlib
from bireme.linux import process
from bireme.linux.netlink import RtNetlink, bridge_port, configure_interface, route, veth
from bireme.network.bridge import BridgeNetwork
from bireme.network.driver import BridgeConfig, Published
from bireme.supervisor import relay
from bireme.wire import supervision
from tests.support.netns import NetNamespace
from tests.support.pace import patience

HOST, CLIENT = "10.9.0.1", "10.9.0.2"


class Instance:
    """An instance as the network sees it: a namespace with eth0, and servers that tell who connected."""

    def __init__(self, scene: Scene, network: BridgeNetwork, name: str) -> None:
        self.id = name + secrets.token_hex(8)
        self.namespace = scene.stack.enter_context(NetNamespace(name))
        self.network = network
        self.endpoint: Endpoint = scene.host.run(network.allocate, self.id)
        scene.attach(self)

    @property
    def address(self) -> str:
        return self.endpoint.address


class Scene:
    """The namespaces and everything opened in them; closes all at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.host = stack.enter_context(NetNamespace("host"))
        self.client = stack.enter_context(NetNamespace("client"))
        self.host.connect(self.client, HOST, CLIENT)
        self._veths = 0

    def network(self, tag: str = "", bridge: str = "", subnet: str = "", ensure: bool = True) -> BridgeNetwork:
        tag = tag or secrets.token_hex(3)
        network = BridgeNetwork(BridgeConfig(tag=tag, bridge=bridge or f"br-{tag}", subnet=subnet))
        self.stack.callback(network.close)
        if ensure:
            self.host.run(network.ensure)
        return network

    def attach(self, instance: Instance) -> None:
        """What the supervisor and the instance's first process do."""
        self._veths += 1
        name = f"v{self._veths}"
        endpoint = instance.endpoint

        def outside() -> None:
            with RtNetlink() as netlink:
                link = netlink.link(endpoint.bridge)
                assert link is not None
                pair = veth(name, "eth0", netns_fd=instance.namespace.fd, master=link.ifindex)
                netlink.batch([pair, bridge_port(name, hairpin=True)])

        def inside() -> None:
            with RtNetlink() as netlink:
                link = netlink.link("eth0")
                assert link is not None
                netlink.batch(
                    configure_interface(
                        link.ifindex,
                        endpoint.address,
                        endpoint.prefix_len,
                        endpoint.gateway,
                        mac=endpoint.mac,
                        mtu=endpoint.mtu,
                    )
                )

        self.host.run(outside)
        instance.namespace.run(inside)

    def instance(self, network: BridgeNetwork, name: str = "one") -> Instance:
        return Instance(self, network, name)

    def publish(self, instance: Instance, *requests: PortRequest) -> Published:
        published = self.host.run(instance.network.publish, instance.id, instance.endpoint, requests, "web")
        self.stack.callback(published.close)
        return published

    def serve(self, namespace: NetNamespace, port: int, address: str = "0.0.0.0", greeting: str = "") -> None:
        """A TCP server that answers with GREETING, the client's address and what the client sent."""
        server = namespace.run(_listen, address, port)
        self.stack.callback(_stop, server)
        threading.Thread(target=_answer_all, args=(server, greeting), daemon=True).start()

    def serve_datagrams(self, namespace: NetNamespace, port: int, address: str = "0.0.0.0") -> None:
        """A UDP server that answers with the sender's address and the datagram."""
        server = namespace.run(_bind_datagrams, address, port)
        self.stack.callback(_stop, server)
        threading.Thread(target=_answer_datagrams, args=(server,), daemon=True).start()

    def route_to(self, subnet: str, prefix_len: int) -> None:
        """Let the client know the way to a subnet behind the host, as a neighbour on the wire could."""

        def add() -> None:
            with RtNetlink() as netlink:
                netlink.batch([route(HOST, destination=subnet, prefix_len=prefix_len)])

        self.client.run(add)


@contextmanager
def open_scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(stack)


class RelayProcess:
    """The real relay, a fork inside `namespace`, and the supervisor's end of its control socket."""

    def __init__(self, namespace: NetNamespace) -> None:
        self.control, theirs = fdlib.seqpacket_pair()
        self.control.settimeout(patience(20))
        self._rid = 0
        self.pid = namespace.run(_fork_relay, theirs)
        theirs.close()

    def call(self, op: str, fds: Sequence[int] = (), **fields: object) -> dict[str, object]:
        self._rid += 1
        packet = supervision.encode(supervision.request(self._rid, op, **fields), fds, spill=_no_spill)
        fdlib.send_fds(self.control, packet.data, packet.fds)
        reply, _ = supervision.decode(self.control.recv(65536), unspill=_no_unspill)
        assert reply["rid"] == self._rid
        return reply

    def hold(self, name: str, published: Published) -> None:
        """Hand sockets over and close our own."""
        entries = [
            {"listen": number, "target": list(one.target) if one.relay else None}
            for number, one in enumerate(published.sockets)
        ]
        reply = self.call("relay_add", [one.fd for one in published.sockets], id=name, entries=entries)
        assert "ok" in reply, reply
        published.close()

    def close(self) -> None:
        self.control.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, 15)
        os.waitpid(self.pid, 0)

    def __enter__(self) -> RelayProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _fork_relay(control: socket.socket) -> int:
    pid = process.fork()
    if pid:
        return pid
    try:
        os.dup2(os.open("/dev/null", os.O_RDWR), 0)
        relay.run(control)
    finally:
        os._exit(0)


def _no_spill(text: bytes) -> int:
    raise AssertionError(len(text))


def _no_unspill(fd: int, limit: int) -> bytes:
    raise AssertionError(fd, limit)


def _listen(address: str, port: int) -> socket.socket:
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen(128)
    return server


def _bind_datagrams(address: str, port: int) -> socket.socket:
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, port))
    return server


def _stop(server: socket.socket) -> None:
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    server.close()


def _answer_all(server: socket.socket, greeting: str) -> None:
    while True:
        try:
            connection, peer = server.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection, peer[0], greeting), daemon=True).start()


def _answer(connection: socket.socket, peer: str, greeting: str) -> None:
    with connection, suppress(OSError):
        connection.settimeout(patience(20))
        received = b""
        while data := connection.recv(65536):
            received += data
        connection.sendall(f"{greeting} {peer} ".encode() + received)


def _answer_datagrams(server: socket.socket) -> None:
    while True:
        try:
            data, peer = server.recvfrom(65536)
            if not data:
                return
            server.sendto(peer[0].encode() + b" " + data, peer)
        except OSError:
            return
