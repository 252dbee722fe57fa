"""A name for an instance that was given none: adjective_oarsman."""

from __future__ import annotations

import os
from collections.abc import Callable

_LEFT = (
    "able agile alert bold brave brisk calm candid clever cool deft eager fair fleet fond frank glad grand happy "
    "hardy jolly keen kind lively lucid merry mild neat nimble noble patient plain proud quick quiet ready sharp "
    "silent sleek smart solid stable steady stoic strong sunny swift tidy trim vivid warm wise witty zesty"
).split()
_RIGHT = (
    "anson argo barents bering bougainville byrd cabot cartier caulker columba cook cooper coxswain dampier davis "
    "diaz drake eriksson flinders franklin frobisher gama gilbert hanno helmsman hudson humboldt jason kotzebue "
    "lookout magellan malaspina nansen nearchus nelson noah oarsman odysseus parry pilot polo purser pytheas raleigh "
    "rower sailmaker scoresby slocum steersman tasman themistocles tupaia vancouver verrazzano vespucci weddell zheng"
).split()


def _below(limit: int) -> int:
    return int.from_bytes(os.urandom(8)) % limit


def generate(taken: Callable[[str], bool]) -> str:
    """A free name; a number is added once the plain ones get rare."""
    for attempt in range(64):
        name = f"{_LEFT[_below(len(_LEFT))]}_{_RIGHT[_below(len(_RIGHT))]}"
        if attempt > 3:
            name += str(_below(10 ** (1 + attempt // 8)))
        if not taken(name):
            return name
    return "b" + os.urandom(8).hex()
