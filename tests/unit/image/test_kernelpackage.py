from __future__ import annotations

import pytest

from bireme.errors import NotFound
from bireme.image.kernelpackage import download, find_packages

DEBIAN = {
    "linux-image-cloud-amd64": ["linux-image-6.1.0-44-cloud-amd64"],
    "linux-image-6.1.0-44-cloud-amd64": ["kmod", "linux-base", "initramfs-tools", "linux-initramfs-tool"],
}
UBUNTU = {
    "linux-image-generic": ["linux-image-6.8.0-45-generic", "linux-firmware", "intel-microcode"],
    "linux-image-6.8.0-45-generic": ["kmod", "linux-base", "linux-modules-6.8.0-45-generic"],
}


@pytest.mark.parametrize(
    ("archive", "found"),
    [
        (DEBIAN, ["linux-image-6.1.0-44-cloud-amd64"]),
        (UBUNTU, ["linux-image-6.8.0-45-generic", "linux-modules-6.8.0-45-generic"]),
        ({}, []),
    ],
)
def test_packages_of_a_kernel(archive: dict[str, list[str]], found: list[str]) -> None:
    names = ("linux-image-cloud-amd64", "linux-image-generic")
    assert find_packages(names, lambda package: archive.get(package, [])) == found


def test_an_unknown_flavour() -> None:
    with pytest.raises(NotFound, match=r"no kernel flavour is called x.*cloud, generic"):
        download("x", "/nowhere", lambda words: None)
