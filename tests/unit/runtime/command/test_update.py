from __future__ import annotations

import json
from pathlib import Path

import pytest

from bireme.errors import Invalid
from bireme.runtime.command.update import parse_size, resources_of
from bireme.runtime.main import parse


def resources(*words: str) -> object:
    return resources_of(parse(["update", *words, "one"])[1])


def test_options_become_resources() -> None:
    assert resources("--memory", "64M", "--memory-swap", "-1", "--cpu-share", "512", "--pids-limit", "9") == {
        "memory": {"limit": 64 << 20, "swap": -1},
        "cpu": {"shares": 512},
        "pids": {"limit": 9},
    }


def test_a_file_of_resources(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"pids": {"limit": 3}, "devices": []}))
    assert resources("--resources", str(path)) == {"pids": {"limit": 3}}
    path.write_text("[]")
    with pytest.raises(Invalid):
        resources("--resources", str(path))


def test_nothing_to_do() -> None:
    with pytest.raises(Invalid, match="nothing"):
        resources()


@pytest.mark.parametrize(
    ("text", "size"), [("5", 5), ("1k", 1024), ("2M", 2 << 20), ("1gb", 1 << 30), ("-1", -1), ("7b", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "1x", "1.5M", "M", "1kk", "--1"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(Invalid):
        parse_size(text)
