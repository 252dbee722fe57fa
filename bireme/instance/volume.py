"""Words about volumes that need no disk: names, the options of the local driver. Pure, with dockerd's wording."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bireme.errors import Invalid

LOCAL = "local"
ANONYMOUS_LABEL = "com.docker.volume.anonymous"
"""Marks a volume that nobody named; prune takes these alone unless told otherwise."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_NAME_MAX = 255
_OPTIONS = ("type", "o", "device", "size")
_NEEDS: Mapping[str, tuple[str, ...]] = {"device": ("type",), "type": ("device",), "o": ("device", "type")}


def check_name(name: str) -> None:
    """Invalid for what is no name of a volume: it becomes the name of a directory."""
    if len(name) == 1:
        raise Invalid(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters",
            subject=name,
        )
    if not _NAME.match(name):
        raise Invalid(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path',
            subject=name,
        )
    if len(name) > _NAME_MAX:
        raise Invalid(f"create {name}: volume name is longer than {_NAME_MAX} characters", subject=name)


def check_options(name: str, options: Mapping[str, str]) -> None:
    """Invalid for options the local driver does not have, or that are incomplete."""
    for option in options:
        if option not in _OPTIONS:
            raise Invalid(f'create {name}: invalid option: "{option}"', subject=option)
    for option, others in _NEEDS.items():
        for other in others:
            if option in options and other not in options:
                raise Invalid(f'create {name}: missing required option: "{other}"', subject=other)
    if "size" in options:
        raise Invalid(f"create {name}: quota size requested but no quota support", subject="size")
    if any("\0" in value for value in options.values()):
        raise Invalid(f"create {name}: an option holds a NUL", subject=name)
