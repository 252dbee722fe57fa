"""How big a file and a function may be. What separates a readable tree from the others is its tail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.source.tree import functions, python_files, relative

FILE_CAP, FILE_P90 = 700, 450
FUNCTION_CAP, FUNCTION_P90 = 70, 35

TABLES = frozenset[str](
    {
        # pure tables, where length is content
    }
)


def p90(values: list[int]) -> int:
    return sorted(values)[int(0.9 * (len(values) - 1))]


def line_count(path: Path) -> int:
    return path.read_bytes().count(b"\n")


@pytest.mark.parametrize("room", ["bireme", "tests", "bench"])
def test_no_file_is_too_long(room: str) -> None:
    sizes = {relative(path): line_count(path) for path in python_files(room) if relative(path) not in TABLES}
    assert not {name: size for name, size in sizes.items() if size > FILE_CAP}
    assert not sizes or p90(list(sizes.values())) <= FILE_P90


@pytest.mark.parametrize("room", ["bireme", "tests", "bench"])
def test_no_function_is_too_long(room: str) -> None:
    sizes = [
        (f"{relative(path)}:{name}", lines)
        for path in python_files(room)
        if relative(path) not in TABLES
        for name, lines in functions(path)
    ]
    assert not [entry for entry in sizes if entry[1] > FUNCTION_CAP]
    assert not sizes or p90([lines for _, lines in sizes]) <= FUNCTION_P90


def test_the_table_list_is_true() -> None:
    known = {relative(path) for path in python_files("bireme", "tests", "bench")}
    assert known >= TABLES
