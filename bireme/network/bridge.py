"""The bridge network: a bridge on the host, a subnet behind it, NAT to the outside, published ports.

`ensure` compares the kernel with what should be and adds what is missing: the bridge and its address, the two sysctls,
the firewall table. It is the same code for the first start, for every start after it and for repair. ip_forward is set
to 1 for the whole host and stays so (any container engine's bridge needs it; the table decides what is forwarded into
our bridges); route_localnet is set on the bridge alone, so that 127.0.0.1 works for published ports.

The endpoint's interface itself is not made here: the supervisor makes it with the instance's namespace.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from bireme.errors import Conflict, Invalid, Unavailable
from bireme.instance.driver import Endpoint, PortMapping
from bireme.instance.spec import PortRequest
from bireme.linux.conntrack import Conntrack
from bireme.linux.libc import SyscallError
from bireme.linux.netlink import (
    RT_TABLE_MAIN,
    Link,
    RtNetlink,
    address,
    bridge,
    delete_address,
    delete_link,
    link_up,
    parse_mac,
    set_link,
)
from bireme.linux.nlsocket import NetlinkError
from bireme.network.driver import BridgeConfig, Published
from bireme.network.firewall import Firewall, Forwarding, Network
from bireme.network.ipam import Pool, mac_of
from bireme.network.portmap import ReservedSocket, check_requests, open_bound, reserve
from bireme.oci.digest import sha256_hex

_NET = Path("/proc/sys/net/ipv4")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,14}")
_DEFAULT_MTU = 1500


def candidate_subnets() -> list[ipaddress.IPv4Network]:
    """The subnets to choose from, in order: 172.17-31.0.0/16, then the /20s of 192.168.0.0/16."""
    wide = [ipaddress.IPv4Network(f"172.{second}.0.0/16") for second in range(17, 32)]
    return wide + list(ipaddress.IPv4Network("192.168.0.0/16").subnets(new_prefix=20))


def choose_subnet(occupied: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The first candidate that overlaps nothing the host has a route to; Unavailable when all do."""
    taken = list(occupied)
    for subnet in candidate_subnets():
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise Unavailable(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
        hint="configure a subnet",
    )


class BridgeNetwork:
    """A bridge of the current network namespace. Networks of one engine share a `Firewall`."""

    def __init__(self, config: BridgeConfig, firewall: Firewall | None = None) -> None:
        if not _NAME.fullmatch(config.bridge):
            raise Invalid(f"invalid interface name: {config.bridge}", subject=config.name)
        self._config = config
        self._firewall = firewall or Firewall(config.tag)
        self._lock = threading.RLock()
        self._netlink: RtNetlink | None = None
        self._stale: set[int] = set()
        self._forgetting = False
        self._ifindex = 0
        self._mtu = config.mtu
        self._pool: Pool | None = None
        self._claims: dict[str, str] = {}
        self._ports: dict[str, tuple[PortMapping, ...]] = {}
        if config.subnet:
            self._pool = _make_pool(config)

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def bridge(self) -> str:
        """The interface's name on the host."""
        return self._config.bridge

    @property
    def tag(self) -> str:
        return self._config.tag

    @property
    def firewall(self) -> Firewall:
        """For further networks of the same engine."""
        return self._firewall

    @property
    def subnet(self) -> str:
        """ "172.17.0.0/16", "" before the first `ensure` when it is not configured."""
        return str(self._pool.subnet) if self._pool else ""

    @property
    def gateway(self) -> str:
        return self._pool.gateway if self._pool else ""

    @property
    def mtu(self) -> int:
        """Bytes; 0 before the first `ensure` when it is not configured."""
        return self._mtu

    def ensure(self) -> None:
        """Make the bridge and its rules, or repair what is missing: about 40 us when nothing is.

        Conflict when the name belongs to something that is no bridge; Unavailable when the kernel refuses.
        """
        with self._lock:
            if self._pool is not None and self._is_whole(self._pool):
                self._firewall.ensure()
                return
            try:
                self._make()
            except SyscallError as error:
                raise Unavailable(f"cannot set up network {self.name}: {error}", subject=self.name) from error

    def _is_whole(self, pool: Pool) -> bool:
        if not self._ifindex:
            return False
        netlink = self._open()
        link = netlink.link(self._ifindex)
        if link is None or link.name != self.bridge or not link.is_up:
            return False
        found = netlink.addresses(socket.AF_INET, self._ifindex)
        return any(one.address == pool.gateway and one.prefix_len == pool.subnet.prefixlen for one in found)

    def _make(self) -> None:
        netlink = self._open()
        link = self._make_bridge(netlink)
        pool = self._pool or self._find_pool(netlink, link)
        self._address_bridge(netlink, link, pool)
        _set_sysctl(_NET / "conf" / self.bridge / "route_localnet")
        _set_sysctl(_NET / "ip_forward")
        self._firewall.add_network(Network(self.bridge, str(pool.subnet)))
        if self._pool is None:
            for holder, claimed in self._claims.items():
                pool.claim(holder, claimed)
            self._claims.clear()
        self._pool = pool
        self._ifindex = link.ifindex

    def _open(self) -> RtNetlink:
        if self._netlink is None:
            self._netlink = RtNetlink()
        return self._netlink

    def _make_bridge(self, netlink: RtNetlink) -> Link:
        if not self._mtu:
            self._mtu = _default_mtu(netlink)
        link = netlink.link(self.bridge)
        if link is None:
            mac = "02:42:" + bytes.fromhex(sha256_hex(f"{self._config.tag} {self.bridge}".encode())[:8]).hex(":")
            netlink.batch([bridge(self.bridge, mac=mac, mtu=self._mtu)])
            link = netlink.link(self.bridge)
        if link is None or link.kind != "bridge":
            raise Conflict(
                f"interface {self.bridge} exists and is not a bridge",
                subject=self.name,
                hint="choose another bridge name",
            )
        if link.mtu != self._mtu:
            netlink.batch([set_link(link.ifindex, mtu=self._mtu)])
        if not link.is_up:
            netlink.batch([link_up(link.ifindex)])
        return link

    def _find_pool(self, netlink: RtNetlink, link: Link) -> Pool:
        """The subnet the bridge has from an earlier run, or a free one."""
        for found in netlink.addresses(socket.AF_INET, link.ifindex):
            subnet = ipaddress.IPv4Network(f"{found.address}/{found.prefix_len}", strict=False)
            if subnet.prefixlen <= 30:
                return Pool(subnet, found.address, self.name)
        occupied = [
            ipaddress.IPv4Network(f"{route.destination}/{route.prefix_len}", strict=False)
            for route in netlink.routes(socket.AF_INET)
            if route.prefix_len and route.destination
        ]
        subnet = choose_subnet(occupied)
        return Pool(subnet, str(subnet.network_address + 1), self.name)

    def _address_bridge(self, netlink: RtNetlink, link: Link, pool: Pool) -> None:
        wanted = (pool.gateway, pool.subnet.prefixlen)
        found = [(one.address, one.prefix_len) for one in netlink.addresses(socket.AF_INET, link.ifindex)]
        if wanted not in found:
            netlink.batch([address(link.ifindex, *wanted)])
        netlink.batch([delete_address(link.ifindex, *other) for other in found if other != wanted])

    def warnings(self) -> list[str]:
        """What of the host's configuration keeps instances from the outside, for people."""
        return [
            f"chain {chain} drops forwarded packets by default: accept those from and to {self.bridge} there"
            for chain in self._firewall.obstacles()
        ]

    def allocate(self, instance_id: str, address: str = "", mac: str = "") -> Endpoint:
        """An address and MAC for an instance; the same again when it has them. Errors: see `Network.allocate`."""
        if mac:
            _check_mac(mac)
        with self._lock:
            pool = self._ready()
            given = pool.allocate(instance_id, address)
            return Endpoint(
                network=self.name,
                bridge=self.bridge,
                address=given,
                prefix_len=pool.subnet.prefixlen,
                gateway=pool.gateway,
                mac=mac or mac_of(given),
                mtu=self._mtu,
            )

    def _ready(self) -> Pool:
        """The pool of a network that is up. Asks the kernel only what it answers without waiting for rtnl."""
        if self._pool is None or not self._is_there():
            self.ensure()
        else:
            self._firewall.ensure()
        if self._pool is None:
            raise Unavailable(f"network {self.name} is not up", subject=self.name)
        return self._pool

    def _is_there(self) -> bool:
        try:
            return self._ifindex != 0 and socket.if_nametoindex(self.bridge) == self._ifindex
        except OSError:
            return False

    def restore(self, instance_id: str, endpoint: Endpoint, mappings: Sequence[PortMapping] = ()) -> None:
        """Take over a running instance's endpoint and ports from an earlier engine; call before `ensure`.

        The relay holds the sockets still. Conflict when another instance has the address.
        """
        with self._lock:
            if self._pool is not None:
                self._pool.claim(instance_id, endpoint.address)
            elif endpoint.address in self._claims.values() and self._claims.get(instance_id) != endpoint.address:
                raise Conflict("Address already in use", subject=endpoint.address, place=f"network {self.name}")
            else:
                self._claims[instance_id] = endpoint.address
            if mappings:
                self._ports[instance_id] = tuple(mappings)
                self._firewall.remember(_forwardings(mappings, endpoint.address))

    def release(self, instance_id: str) -> None:
        """Close the instance's ports and free its address. Idempotent."""
        with self._lock:
            self.unpublish(instance_id)
            self._claims.pop(instance_id, None)
            if self._pool is not None:
                self._pool.release(instance_id)

    def publish(
        self, instance_id: str, endpoint: Endpoint | None, requests: Sequence[PortRequest], name: str = ""
    ) -> Published:
        """Reserve the ports and send them to the endpoint: two sockets a port and one transaction for all."""
        if not requests:
            return Published()
        if endpoint is None or not endpoint.address:
            raise Invalid(f"{name or instance_id} has no address in network {self.name} to publish ports of")
        check_requests(requests)
        with self._lock:
            self._ready()
            try:
                held = reserve(requests, endpoint.address, self._ports.values())
            except Conflict as error:
                shown = f"endpoint {name or instance_id[:12]} ({instance_id})"
                text = f"driver failed programming external connectivity on {shown}: {error.message}"
                raise Conflict(text, subject=error.subject, place=f"network {self.name}") from error
            mappings = tuple(reserved.mapping for reserved in held)
            try:
                self._firewall.add(_forwardings(mappings, endpoint.address))
            except BaseException:
                Published(mappings, tuple(held)).close()
                raise
            self._ports[instance_id] = self._ports.get(instance_id, ()) + mappings
            self._forget_flows(mappings)
            return Published(mappings, tuple(held))

    def reopen(self, instance_id: str) -> Published:
        """New sockets for the instance's ports, when the relay lost them; a port that is taken by now is left out."""
        with self._lock:
            target = self._pool.lease(instance_id) if self._pool else self._claims.get(instance_id, "")
            held = []
            for mapping in self._ports.get(instance_id, ()):
                family = socket.AF_INET6 if ":" in mapping.host_ip else socket.AF_INET
                try:
                    bound = open_bound(family, mapping.protocol, mapping.host_ip, mapping.host_port)
                except OSError:
                    continue
                held.append(ReservedSocket(mapping, bound, target))
            return Published(tuple(one.mapping for one in held), tuple(held))

    def unpublish(self, instance_id: str) -> None:
        """Close every port of the instance. Idempotent."""
        with self._lock:
            mappings = self._ports.pop(instance_id, ())
            if mappings:
                self._firewall.remove(_forwardings(mappings, ""))
                self._forget_flows(mappings)

    def _forget_flows(self, mappings: Iterable[PortMapping]) -> None:
        """Let UDP clients that never pause find the new way; the port works for others even if this fails.

        In a thread: the kernel walks its whole table for it, 10-20 ms that nobody has to wait for.
        """
        self._stale |= {one.host_port for one in mappings if one.protocol == "udp" and ":" not in one.host_ip}
        if self._stale and not self._forgetting:
            self._forgetting = True
            threading.Thread(target=self._forget_stale, name="flows", daemon=True).start()

    def _forget_stale(self) -> None:
        with Conntrack() as conntrack:
            while True:
                with self._lock:
                    if not self._stale:
                        self._forgetting = False
                        return
                    port = self._stale.pop()
                with suppress(NetlinkError):
                    conntrack.forget_datagrams(port, self._firewall.targets("udp", port))

    def teardown(self) -> None:
        """Remove the network from the firewall (the last one takes the table along) and delete the bridge."""
        with self._lock:
            self._firewall.remove_network(self.bridge)
            netlink = self._open()
            link = netlink.link(self.bridge)
            if link is not None and link.kind == "bridge":
                errors = netlink.attempt([delete_link(link.ifindex)])
                if errors and errors[0].errno != errno.ENODEV:
                    raise Unavailable(f"cannot delete {self.bridge}: {errors[0]}", subject=self.name) from errors[0]
            self._ifindex = 0
            self._ports.clear()

    def close(self) -> None:
        """Close the sockets to the kernel; bridge and rules stay."""
        with self._lock:
            if self._netlink is not None:
                self._netlink.close()
                self._netlink = None
            self._firewall.close()


def _make_pool(config: BridgeConfig) -> Pool:
    try:
        subnet = ipaddress.IPv4Network(config.subnet)
        gateway = str(ipaddress.IPv4Address(config.gateway)) if config.gateway else str(subnet.network_address + 1)
    except ValueError as error:
        raise Invalid(f"invalid subnet of network {config.name}: {error}", subject=config.name) from error
    return Pool(subnet, gateway, config.name)


def _forwardings(mappings: Iterable[PortMapping], target: str) -> list[Forwarding]:
    """What the firewall sends on; IPv6 host addresses are the relay's."""
    return [
        Forwarding(one.host_ip, one.protocol, one.host_port, target, one.container_port)
        for one in mappings
        if ":" not in one.host_ip
    ]


def _check_mac(mac: str) -> None:
    try:
        raw = parse_mac(mac)
    except ValueError as error:
        raise Invalid(f"invalid MAC address: {mac}", subject=mac) from error
    if raw[0] & 1 or not any(raw):
        raise Invalid(f"invalid MAC address: {mac} is not a unicast address", subject=mac)


def _default_mtu(netlink: RtNetlink) -> int:
    """The MTU of the interface that the host's default route uses, so that nothing has to be fragmented."""
    for route in netlink.routes(socket.AF_INET, RT_TABLE_MAIN):
        if not route.prefix_len and route.ifindex:
            link = netlink.link(route.ifindex)
            if link is not None and 576 <= link.mtu <= 65535:
                return link.mtu
    return _DEFAULT_MTU


def _set_sysctl(path: Path) -> None:
    """Set to 1 unless it is."""
    try:
        if path.read_text().strip() != "1":
            path.write_text("1")
    except OSError as error:
        raise Unavailable(
            f"cannot set {path} to 1: {(error.strerror or '').lower()}",
            subject=str(path),
            hint="a bridge network needs it; set it by hand or use the host or none network",
        ) from error
