"""How two programs of different releases agree on a version of a private protocol."""

from __future__ import annotations

from bireme.errors import Invalid, Unsupported


def agree(theirs: object, oldest: int, newest: int, protocol: str, place: str) -> int:
    """The version both sides speak; Unsupported when the other side is too old, Invalid when it is no number."""
    if not isinstance(theirs, int) or isinstance(theirs, bool):
        raise Invalid("hello without a version", place=place)
    if theirs < oldest:
        raise Unsupported(
            f"{protocol} version {theirs} is too old, {oldest} to {newest} are spoken here",
            place=place,
            hint="restart the older program",
        )
    return min(theirs, newest)
