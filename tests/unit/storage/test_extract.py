"""Names and links of an archive that is copied in."""

from __future__ import annotations

import pytest

from bireme.errors import Invalid
from bireme.storage.extract import check_symlink, inside


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"a/b", b"a/b"),
        (b"/abs/x", b"abs/x"),
        (b"//x", b"x"),
        (b"./a//b/", b"a/b"),
        (b"a/../b", b"b"),
        (b".", b""),
        (b"/", b""),
        (b"a/..", b""),
    ],
)
def test_names_are_relative_to_the_extraction_point(name: bytes, path: bytes) -> None:
    assert inside(name) == path


@pytest.mark.parametrize("name", [b"..", b"../x", b"a/../../x", b"/../x", b"a" * 256])
def test_names_that_lead_out(name: bytes) -> None:
    with pytest.raises(Invalid):
        inside(name)


@pytest.mark.parametrize(("path", "target"), [(b"l", b"a"), (b"d/l", b"../a"), (b"l", b"/etc"), (b"a/b/l", b"../../x")])
def test_links_that_stay(path: bytes, target: bytes) -> None:
    check_symlink(path, target)


@pytest.mark.parametrize(("path", "target"), [(b"l", b".."), (b"d/l", b"../../a"), (b"l", b""), (b"l", b"a/../../b")])
def test_links_that_lead_out(path: bytes, target: bytes) -> None:
    with pytest.raises(Invalid):
        check_symlink(path, target)
