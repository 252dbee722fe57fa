"""Locks by name."""

from __future__ import annotations

import asyncio

from bireme.engine.locks import NamedLocks


def test_several_are_taken_in_one_order_and_forgotten() -> None:
    async def main() -> None:
        locks, seen = NamedLocks(), []

        async def hold(mark: str, *names: str) -> None:
            async with locks.held(names):
                seen.append(mark)
                await asyncio.sleep(0)
                seen.append(mark)

        await asyncio.gather(hold("a", "x", "y"), hold("b", "y", "x", "x"), hold("c", "y"))
        assert [seen[n] == seen[n + 1] for n in (0, 2, 4)] == [True, True, True]
        assert len(locks) == 0

    asyncio.run(main())
