"""Bytes to descriptors that may be slow or non-blocking, and colours for terminals."""

from __future__ import annotations

import os
import select

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it; waits where the descriptor is non-blocking and full."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            poller = select.poll()
            poller.register(descriptor, select.POLLOUT)
            poller.poll()


class Paint:
    """Colours text when `descriptor` is a terminal that wants it (NO_COLOR and TERM=dumb say no)."""

    def __init__(self, descriptor: int) -> None:
        wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._on = wanted and os.isatty(descriptor)

    def __call__(self, colour: str, text: str) -> str:
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self._on and text else text
