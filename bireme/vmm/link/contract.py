"""Stream connections as the link uses them: virtio-vsock in a machine (vmm/virtio/vsock.py), AF_UNIX in tests.

Flow control is the receiver's: at most a window of bytes comes that was not given back with `consume`, and `send`
takes no more than the other side has room for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Handler(Protocol):
    """Who is told what happens to a connection. Calls come from the event loop, one at a time, and do not nest."""

    def on_data(self, data: bytes) -> None:
        """Bytes came; they count against the window until they are consumed."""
        ...

    def on_end(self) -> None:
        """The other side will send no more."""
        ...

    def on_writable(self) -> None:
        """There is room again, after `sendable` was 0."""
        ...

    def on_close(self) -> None:
        """The connection is gone; after that nothing is called any more."""
        ...


class Connection(Protocol):
    """One connection. Calls on one that is gone do nothing."""

    handler: Handler

    @property
    def sendable(self) -> int:
        """Bytes that `send` would take now."""
        ...

    def send(self, data: bytes | memoryview) -> int:
        """Take what there is room for; the number of bytes."""
        ...

    def consume(self, count: int) -> None:
        """Give back room for `count` received bytes."""
        ...

    def shutdown(self) -> None:
        """Send no more, after what was taken."""
        ...

    def reset(self) -> None:
        """Drop it at once; `on_close` is not called."""
        ...


class Transport(Protocol):
    """Where connections come from."""

    def listen(self, port: int, accept: Callable[[Connection], Handler | None]) -> None:
        """Call `accept` for every connection to `port`: its handler, or None to refuse it."""
        ...
