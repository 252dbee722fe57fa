"""The `platform` of a create request."""

from __future__ import annotations

from bireme.api.docker.services import Images
from bireme.errors import Invalid, NotFound

_OTHER_NAMES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "i386": "386"}
_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd"})


def check_platform(images: Images, reference: str, platform: str) -> None:
    """NotFound when the image is for another platform than the one asked for."""
    if not platform:
        return
    parts = platform.lower().split("/")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise Invalid(f'"{platform}": unknown operating system or architecture: invalid argument', subject=platform)
    system = parts[0] if len(parts) > 1 or parts[0] in _SYSTEMS else "linux"
    architecture = parts[1] if len(parts) > 1 else "" if parts[0] in _SYSTEMS else parts[0]
    architecture = _OTHER_NAMES.get(architecture, architecture)
    image = images.find(reference)
    if system != image.os or (architecture and architecture != image.architecture):
        raise NotFound(
            f"image with reference {reference} was found but does not provide the specified platform ({platform})",
            subject=reference,
        )
