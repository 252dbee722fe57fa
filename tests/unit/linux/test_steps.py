from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bireme.linux import steps
from bireme.linux.libc import SyscallError, prepare
from bireme.linux.numbers import optional_number
from bireme.linux.steps import Step


def noted(seen: list[str], word: str) -> Step:
    def note() -> int:
        seen.append(word)
        return 0

    return steps.several(note)


def failing(path: Path) -> Step:
    """mkdirat below a directory that is not there: ENOENT."""
    return steps.make_directory(f"{path}/nowhere/x")


def test_directories_and_links_are_made_in_order(tmp_path: Path) -> None:
    steps.run([steps.make_directory(f"{tmp_path}/a"), steps.make_link("text", f"{tmp_path}/a/link")])
    assert os.readlink(tmp_path / "a/link") == "text"


def test_a_directory_that_is_there_will_do(tmp_path: Path) -> None:
    seen: list[str] = []
    steps.run([steps.make_directory(str(tmp_path)), noted(seen, "next")])
    assert seen == ["next"]


def test_an_unforeseen_failure_is_raised_and_ends_the_row(tmp_path: Path) -> None:
    seen: list[str] = []
    with pytest.raises(SyscallError) as caught:
        steps.run([noted(seen, "before"), failing(tmp_path), noted(seen, "after")])
    assert (caught.value.errno, caught.value.call) == (errno.ENOENT, "mkdir")
    assert seen == ["before"]


def test_a_tolerated_failure_leaves_out_what_belongs_to_it(tmp_path: Path) -> None:
    seen: list[str] = []
    step = failing(tmp_path)._replace(tolerated=errno.ENOENT, rest=1)
    steps.run([step, noted(seen, "left out"), noted(seen, "next")])
    assert seen == ["next"]


def test_what_is_done_otherwise_decides_how_to_go_on(tmp_path: Path) -> None:
    seen: list[str] = []

    def otherwise(error: SyscallError) -> int:
        seen.append(errno.errorcode[error.errno or 0])
        return 2

    step = failing(tmp_path)._replace(otherwise=otherwise)
    steps.run([step, noted(seen, "first"), noted(seen, "second"), noted(seen, "third")])
    assert seen == ["ENOENT", "third"]


def test_a_prepared_call_is_the_call(tmp_path: Path) -> None:
    function, arguments = prepare(optional_number("mkdirat"), -100, os.fsencode(tmp_path / "made"), 0o700)
    assert function(*arguments) == 0
    assert (tmp_path / "made").is_dir()
