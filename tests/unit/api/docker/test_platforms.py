"""The platform of a create request."""

from __future__ import annotations

import pytest

from bireme.api.docker.platforms import check_platform
from bireme.errors import Invalid, NotFound
from tests.support.services import FakeServices


@pytest.mark.parametrize("platform", ["", "linux", "linux/amd64", "amd64", "linux/x86_64", "Linux/AMD64/v2"])
def test_fits(platform: str) -> None:
    check_platform(FakeServices().images, "busybox", platform)


@pytest.mark.parametrize("platform", ["windows", "linux/arm64", "arm64", "linux/arm/v7"])
def test_another_one(platform: str) -> None:
    with pytest.raises(NotFound, match="does not provide the specified platform"):
        check_platform(FakeServices().images, "busybox", platform)


@pytest.mark.parametrize("platform", ["/", "linux/", "a/b/c/d"])
def test_nonsense(platform: str) -> None:
    with pytest.raises(Invalid):
        check_platform(FakeServices().images, "busybox", platform)
