"""Network namespaces for tests: each is a thread that lives in one, and runs what it is given there.

Nothing here touches the machine's own network. A namespace goes when its thread has ended and nothing holds it; sysctls
below /proc/sys/net and sockets follow the thread.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from bireme.linux.namespaces import setns, unshare
from bireme.linux.netlink import RtNetlink, address, link_up, lo_up, veth
from bireme.linux.process import CloneFlags
from tests.support.pace import patience

T = TypeVar("T")


class NetNamespace:
    """A new network namespace with its loopback up; use as a context manager."""

    def __init__(self, name: str = "ns") -> None:
        self.name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"netns-{name}")
        self.fd = self.run(self._enter)

    def _enter(self) -> int:
        unshare(CloneFlags.CLONE_NEWNET)
        with RtNetlink() as netlink:
            netlink.batch([lo_up()])
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def run(self, function: Callable[..., T], *args: Any, **keywords: Any) -> T:
        """Call `function` inside and return what it returns or raises."""
        return self._thread.submit(function, *args, **keywords).result(timeout=patience(60))

    def start(self, function: Callable[..., object], *args: Any) -> threading.Thread:
        """Run `function` in another thread that is inside too."""
        entered = threading.Event()

        def inside() -> None:
            setns(self.fd, CloneFlags.CLONE_NEWNET)
            entered.set()
            function(*args)

        thread = threading.Thread(target=inside, daemon=True)
        thread.start()
        entered.wait(patience(10))
        return thread

    def connect(self, other: NetNamespace, here: str, there: str, prefix_len: int = 24, names: str = "up") -> None:
        """A veth pair between two namespaces, with addresses, up at both ends; interfaces NAMES0 and NAMES1."""

        def near() -> None:
            with RtNetlink() as netlink:
                netlink.batch([veth(f"{names}0", f"{names}1", netns_fd=other.fd)])
                link = netlink.link(f"{names}0")
                assert link is not None
                netlink.batch([address(link.ifindex, here, prefix_len)])

        def far() -> None:
            with RtNetlink() as netlink:
                link = netlink.link(f"{names}1")
                assert link is not None
                netlink.batch([link_up(link.ifindex), address(link.ifindex, there, prefix_len)])

        self.run(near)
        other.run(far)

    def close(self) -> None:
        os.close(self.fd)
        self._thread.shutdown(wait=True)

    def __enter__(self) -> NetNamespace:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def fetch(address: str, port: int, payload: bytes = b"hello", timeout_s: float = 5.0) -> bytes:
    """Connect over TCP, send, shut down, read to the end."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(patience(timeout_s))
        connection.connect((address, port))
        connection.sendall(payload)
        connection.shutdown(socket.SHUT_WR)
        parts = []
        while data := connection.recv(65536):
            parts.append(data)
        return b"".join(parts)
