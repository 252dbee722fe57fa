from __future__ import annotations

import pytest

from bireme.errors import Invalid
from bireme.oci.platform import Platform, can_run, from_machine, normalize, parse_platform


def test_names() -> None:
    assert from_machine("x86_64") == Platform("linux", "amd64")
    assert from_machine("aarch64") == normalize("linux", "arm64", "v8") == Platform("linux", "arm64")
    assert str(parse_platform("linux/arm/v7")) == "linux/arm/v7"
    assert parse_platform("Linux/x86_64") == parse_platform("amd64") == Platform("linux", "amd64")


@pytest.mark.parametrize("text", ["", "a/b/c/d", "linux/", "linux/am d64"])
def test_malformed(text: str) -> None:
    with pytest.raises(Invalid):
        parse_platform(text)


def test_who_runs_what() -> None:
    amd64, arm64 = Platform("linux", "amd64"), Platform("linux", "arm64")
    assert can_run(amd64, amd64)
    assert can_run(amd64, Platform("linux", "386"))
    assert not can_run(amd64, arm64)
    assert not can_run(amd64, Platform("windows", "amd64"))
    assert can_run(Platform("linux", "arm", "v7"), Platform("linux", "arm", "v6"))
    assert not can_run(Platform("linux", "arm", "v6"), Platform("linux", "arm", "v7"))
    assert can_run(amd64, Platform("", ""))
