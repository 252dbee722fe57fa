from __future__ import annotations

import pytest

from bireme.errors import Invalid, Unsupported
from bireme.runtime.command.cgroup import CgroupPlace, place_of


def test_places() -> None:
    assert place_of("", "one") == CgroupPlace("/bireme-runtime", "one")
    assert place_of("/a/b/c", "one") == CgroupPlace("/a/b", "c")
    assert place_of("a/b", "one") == CgroupPlace("a", "b")
    assert place_of("/c", "one") == CgroupPlace("/", "c")
    assert place_of("c", "one") == CgroupPlace("/", "c")


@pytest.mark.parametrize("path", ["/", "..", "/a/../b", "//", "."])
def test_paths_that_name_none(path: str) -> None:
    with pytest.raises(Invalid):
        place_of(path, "one")


def test_the_form_of_systemd() -> None:
    with pytest.raises(Unsupported):
        place_of("system.slice:runc:one", "one")
