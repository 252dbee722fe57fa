"""How patient a test is. An emulated machine runs Python many times slower than a real one: the lane that boots it
measures how much and says so in BIREME_TIME_SCALE, and every deadline of a test goes through `patience`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SCALE = max(1.0, float(os.environ.get("BIREME_TIME_SCALE", "1")))


def patience(seconds: float) -> float:
    """A deadline fit for this machine."""
    return seconds * SCALE


def eventually(probe: Callable[[], T], *, within_s: float = 10.0, every_s: float = 0.01) -> T:
    """Call `probe` until it returns something true and return that; AssertionError with the last value otherwise."""
    deadline = time.monotonic() + patience(within_s)
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still {value!r} after {patience(within_s):.0f} s")
        time.sleep(every_s)


async def until(condition: Callable[[], bool]) -> None:
    """The same in a loop, which goes on meanwhile: TimeoutError when `condition` stays false."""
    async with asyncio.timeout(patience(20)):
        while not condition():
            await asyncio.sleep(0.005)
