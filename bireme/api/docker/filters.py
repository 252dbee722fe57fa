"""The `filters` parameter: a JSON map of names to values, as dockerd reads and matches it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from bireme.api.http.message import Request
from bireme.errors import Invalid

_decode = msgspec.json.Decoder().decode


class Filters:
    """Values by name. A name without values filters nothing."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, tuple[str, ...]]) -> None:
        self._values = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __bool__(self) -> bool:
        return bool(self._values)

    def get(self, name: str) -> tuple[str, ...]:
        return self._values.get(name, ())

    def check(self, known: Iterable[str]) -> None:
        """Invalid for a filter this request does not have."""
        for name in self._values:
            if name not in known:
                raise Invalid(f"invalid filter '{name}'", subject=name)

    def exact(self, name: str, *values: str) -> bool:
        """Whether one of `values` is asked for, or nothing is."""
        asked = self._values.get(name)
        return not asked or any(value in asked for value in values)

    def prefix(self, name: str, value: str) -> bool:
        asked = self._values.get(name)
        return not asked or any(value.startswith(part) for part in asked)

    def pattern(self, name: str, *values: str) -> bool:
        """Whether one of `values` equals or, as a regular expression, matches what is asked for."""
        asked = self._values.get(name)
        return not asked or any(_matches(part, value) for part in asked for value in values)

    def labels(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether `labels` has every `key` or `key=value` asked for."""
        for part in self._values.get(name, ()):
            key, equals, value = part.partition("=")
            if key not in labels or (equals and labels[key] != value):
                return False
        return True

    def boolean(self, name: str, default: bool) -> bool:
        asked = self._values.get(name)
        if asked is None:
            return default
        no = "0" in asked or "false" in asked
        yes = "1" in asked or "true" in asked
        if no == yes:
            raise Invalid(f"invalid filter '{name}={list(asked)}'", subject=name)
        return yes


def _matches(part: str, value: str) -> bool:
    if part == value:
        return True
    try:
        return re.search(part, value) is not None
    except re.error:
        return False


def read_filters(request: Request) -> Filters:
    """The request's filters: {"name": {"value": true}} or the older {"name": ["value"]}."""
    text = request.value("filters")
    if not text:
        return Filters({})
    try:
        data = _decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise Invalid("invalid filter") from None
    if not isinstance(data, dict):
        raise Invalid("invalid filter")
    return Filters({name: _values(value) for name, value in data.items()})


def _values(value: object) -> tuple[str, ...]:
    if isinstance(value, dict) and all(isinstance(on, bool) for on in value.values()):
        return tuple(name for name, on in value.items() if on)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise Invalid("invalid filter")
