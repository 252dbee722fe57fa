"""Addresses of one subnet: who holds which, and which is next.

Leases go out in order, and a freed address is not handed out again before the whole pool went round: neighbours' ARP
caches, connection tracking and clients that still talk to the last holder get that long to forget it. Nothing is
stored: the leases of running instances are claimed again when an engine starts.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from bireme.errors import Conflict, Invalid, Unavailable

EXHAUSTED = "no available IPv4 addresses on this network's address pools"


class Pool:
    """The leases of one IPv4 subnet; `gateway` and the two ends are never handed out. Not safe for threads."""

    def __init__(self, subnet: ipaddress.IPv4Network, gateway: str, name: str = "") -> None:
        self.subnet = subnet
        self.gateway = gateway
        self._name = name
        self._first = int(subnet.network_address) + 1
        self._last = int(subnet.broadcast_address) - 1
        if subnet.prefixlen > 30 or not self._first <= _to_int(gateway) <= self._last:
            raise Invalid(f"subnet {subnet} has no room for the gateway {gateway} and an instance", subject=name)
        self._holders: dict[int, str] = {_to_int(gateway): ""}
        self._leases: dict[str, int] = {}
        self._next = self._first

    def lease(self, holder: str) -> str:
        """The address that `holder` has, "" without one."""
        value = self._leases.get(holder)
        return "" if value is None else _to_text(value)

    def allocate(self, holder: str, address: str = "") -> str:
        """An address for `holder`, the one asked for or the next; the same again when it has one already.

        Conflict when the address is held by another, Invalid when it is not of this subnet, Unavailable when all are.
        """
        held = self._leases.get(holder)
        if held is not None and address in ("", _to_text(held)):
            return _to_text(held)
        value = self._check(address, holder) if address else self._free()
        if held is not None:
            self.release(holder)
        self._holders[value] = holder
        self._leases[holder] = value
        if not address:
            self._next = value + 1
        return _to_text(value)

    def claim(self, holder: str, address: str) -> None:
        """Note that `holder` has `address` since before; allocation goes on behind it. Errors as `allocate`."""
        self.allocate(holder, address)
        self._next = max(self._next, _to_int(address) + 1)

    def release(self, holder: str) -> None:
        """Give back; no error when there is nothing to give back."""
        value = self._leases.pop(holder, None)
        if value is not None:
            del self._holders[value]

    def _check(self, address: str, holder: str) -> int:
        try:
            value = _to_int(address)
        except OSError as error:
            raise Invalid(f"invalid IPv4 address: {address}", subject=address) from error
        if not int(self.subnet.network_address) <= value <= int(self.subnet.broadcast_address):
            raise Invalid(f"no configured subnet or ip-range contain the IP address {address}", subject=self._name)
        if value in (self._first - 1, self._last + 1):
            raise Invalid(f"{address} is the subnet's own or broadcast address", subject=self._name)
        if self._holders.get(value, holder) != holder:
            raise Conflict("Address already in use", subject=address, place=f"network {self._name}")
        return value

    def _free(self) -> int:
        if len(self._holders) > self._last - self._first:
            raise Unavailable(EXHAUSTED, subject=self._name, place="ipam")
        value = self._next
        while True:
            if value > self._last:
                value = self._first
            if value not in self._holders:
                return value
            value += 1


def mac_of(address: str) -> str:
    """The MAC of an instance with this IPv4 address, as Docker derives it: 02:42 and the address."""
    return "02:42:" + socket.inet_aton(address).hex(":")


def _to_int(address: str) -> int:
    value: int = struct.unpack(">I", socket.inet_pton(socket.AF_INET, address))[0]
    return value


def _to_text(value: int) -> str:
    return socket.inet_ntoa(struct.pack(">I", value))
