"""--filter: from name=value pairs to the JSON map that the API takes."""

from __future__ import annotations

from bireme.client.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def encode_filters(pairs: Iterable[tuple[str, str]]) -> str:
    """`{"label":{"a=b":true}}`, or "" when there are none."""
    filters: dict[str, dict[str, bool]] = {}
    for name, value in pairs:
        filters.setdefault(name, {})[value] = True
    return dumps(filters) if filters else ""
