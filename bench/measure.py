"""Statistics of interleaved runs. The machine's speed changes by a factor of two within minutes, so subjects take turns
(A B C, A B C, ...) and what is compared is the ratio of neighbours, by its median and its quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Series(NamedTuple):
    """Values of one subject in the order they were taken."""

    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def quantile(self, part: float) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]


class Ratio(NamedTuple):
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def ratio(mine: Series, other: Series) -> Ratio:
    """Median and quartiles of mine / other, pair by pair."""
    pairs = Series([a / b for a, b in zip(mine.values, other.values, strict=True)])
    return Ratio(pairs.median, pairs.quantile(0.25), pairs.quantile(0.75))


def timed_ms(action: Callable[..., object], *arguments: object) -> float:
    begin = time.perf_counter()
    action(*arguments)
    return (time.perf_counter() - begin) * 1e3


def interleave(
    subjects: Mapping[str, Callable[[], float]], *, runs: int, warm: int = 3, pause_s: float = 0.0
) -> dict[str, Series]:
    """Each subject takes its turn `runs` times, after `warm` turns not counted; before each `pause_s` of quiet."""
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(-warm, runs):
        for name, action in subjects.items():
            if pause_s:
                time.sleep(pause_s)
            value = action()
            if turn >= 0:
                taken[name].append(value)
    return {name: Series(values) for name, values in taken.items()}
