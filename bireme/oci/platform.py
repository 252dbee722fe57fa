"""Platforms of images: `os/architecture[/variant]` in Go's names (OCI image-spec image-index.md)."""

from __future__ import annotations

import re
from typing import NamedTuple

from bireme.errors import Invalid

_FIELD = re.compile(r"[A-Za-z0-9_.-]+\Z")

_MACHINES: dict[str, tuple[str, str]] = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
}
_ALIASES: dict[tuple[str, str], tuple[str, str]] = {
    ("x86-64", ""): ("amd64", ""),
    ("amd64", "v1"): ("amd64", ""),
    ("arm64", "v8"): ("arm64", ""),
    ("armhf", ""): ("arm", "v7"),
    ("armel", ""): ("arm", "v6"),
    ("arm", ""): ("arm", "v7"),
}


class Platform(NamedTuple):
    """A normalised platform."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


def normalize(os: str, architecture: str, variant: str = "") -> Platform:
    """Go's spelling of what may be the kernel's, an alias, or in the wrong case."""
    architecture, variant = architecture.lower(), variant.lower()
    if not variant and architecture in _MACHINES:
        architecture, variant = _MACHINES[architecture]
    architecture, variant = _ALIASES.get((architecture, variant), (architecture, variant))
    return Platform(os.lower(), architecture, variant)


def from_machine(machine: str) -> Platform:
    """The platform of a Linux kernel whose uname(2) machine is `machine`."""
    return normalize("linux", machine)


def parse_platform(text: str) -> Platform:
    """`linux/arm64/v8`, `linux/amd64`, or an architecture alone; Invalid otherwise."""
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(_FIELD.match(part) for part in parts):
        raise Invalid(f'"{text}" is an invalid platform', subject=text)
    if len(parts) == 1:
        return normalize("linux", parts[0])
    return normalize(*parts)


def can_run(host: Platform, image: Platform) -> bool:
    """Whether a kernel of `host` executes programs of `image` (an older arm variant, or 386 on amd64)."""
    if host == image or image.os == "":
        return True
    if host.os != image.os:
        return False
    if host.architecture == image.architecture == "arm":
        return image.variant <= host.variant
    if host.architecture == image.architecture:
        return image.variant in ("", host.variant)
    return (host.architecture, image.architecture) == ("amd64", "386")
