"""docker cp's rules about paths."""

from __future__ import annotations

import pytest

from bireme.cli.copypaths import Thing, plan_copy, renamed, split_argument, split_entry
from bireme.cli.errors import CommandFailed


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("web:/etc", ("web", "/etc")),
        ("web:etc", ("web", "etc")),
        ("/a:b", ("", "/a:b")),
        ("./a:b", ("", "./a:b")),
        ("plain", ("", "plain")),
        ("-", ("", "-")),
    ],
)
def test_arguments(argument: str, found: tuple[str, str]) -> None:
    assert split_argument(argument) == found


@pytest.mark.parametrize(
    ("path", "found"),
    [("/a/b", ("/a", "b")), ("/a/b/", ("/a", "b")), ("/a/b/.", ("/a/b", ".")), ("/", ("/", "/")), (".", (".", "."))],
)
def test_entries(path: str, found: tuple[str, str]) -> None:
    assert split_entry(path) == found


def _thing(path: str, kind: str) -> Thing:
    return Thing(path, kind != "absent", kind == "directory")


@pytest.mark.parametrize(
    ("source", "target", "plan"),
    [
        (("/s/file", "file"), ("/t", "directory"), ("/t", "file", "file")),
        (("/s/dir", "directory"), ("/t", "directory"), ("/t", "dir", "dir")),
        (("/s/dir/.", "directory"), ("/t", "directory"), ("/t", ".", ".")),
        (("/s/file", "file"), ("/t/other", "file"), ("/t", "file", "other")),
        (("/s/file", "file"), ("/t/new", "absent"), ("/t", "file", "new")),
        (("/s/dir", "directory"), ("/t/new/", "absent"), ("/t", "dir", "new")),
        (("/s/dir/.", "directory"), ("/t/new", "absent"), ("/t", ".", "new")),
    ],
)
def test_plans(source: tuple[str, str], target: tuple[str, str], plan: tuple[str, str, str]) -> None:
    assert plan_copy(_thing(*source), _thing(*target)) == plan


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (("/s/dir", "directory"), ("/t/file", "file"), "cannot copy directory"),
        (("/s/file", "file"), ("/t/new/", "absent"), "no such directory"),
    ],
)
def test_refusals(source: tuple[str, str], target: tuple[str, str], message: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        plan_copy(_thing(*source), _thing(*target))
    assert caught.value.message == message


def test_renames() -> None:
    assert renamed("dir/a", "dir", "new") == "new/a"
    assert renamed("./a", ".", "new") == "new/a"
    assert renamed("/bin/a", "/", "new") == "new/bin/a"
    assert renamed("other", "dir", "new") == "other"
