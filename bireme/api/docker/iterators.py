"""Asynchronous iterators ended early."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any


async def close(iterator: AsyncIterator[Any]) -> None:
    """Run an asynchronous generator's clean-up now; other iterators have none."""
    end = getattr(iterator, "aclose", None)
    if end is not None:
        await end()
