from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bireme.errors import BiremeError, Invalid
from bireme.runtime.command.execute import process_of
from bireme.runtime.main import parse

CONFIG: dict[str, Any] = {
    "process": {
        "args": ["init"],
        "terminal": True,
        "consoleSize": {"height": 1, "width": 2},
        "user": {"uid": 5, "gid": 6},
        "env": ["A=1"],
        "cwd": "/x",
        "capabilities": {"bounding": ["CAP_KILL"], "permitted": [], "effective": []},
    }
}


def process(*words: str) -> dict[str, Any]:
    made: dict[str, Any] = process_of(parse(["exec", *words])[1], CONFIG)
    return made


def test_the_container_s_own_process_is_the_start() -> None:
    made = process("one", "sh", "-c", "x")
    assert made["args"] == ["sh", "-c", "x"]
    assert made["terminal"] is False
    assert "consoleSize" not in made
    assert (made["user"], made["env"], made["cwd"]) == ({"uid": 5, "gid": 6}, ["A=1"], "/x")


def test_options_change_it() -> None:
    words = [
        "-t",
        "-e",
        "B=2",
        "--cwd",
        "/y",
        "-u",
        "7:8",
        "-g",
        "9",
        "--no-new-privs",
        "--cap",
        "net_raw",
        "one",
        "sh",
    ]
    made = process(*words)
    assert made["terminal"] is True
    assert (made["env"], made["cwd"]) == (["A=1", "B=2"], "/y")
    assert made["user"] == {"uid": 7, "gid": 8, "additionalGids": [9]}
    assert made["noNewPrivileges"] is True
    assert made["capabilities"]["bounding"] == ["CAP_KILL", "CAP_NET_RAW"]
    assert CONFIG["process"]["env"] == ["A=1"]


def test_a_process_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"args": ["a"]}))
    assert process("--process", str(path), "one") == {"args": ["a"]}
    with pytest.raises(Invalid):
        process("--process", str(path), "one", "sh")
    with pytest.raises(BiremeError):
        process("--process", str(tmp_path / "none"), "one")


@pytest.mark.parametrize("words", [["one"], ["-u", "x", "one", "sh"], ["-g", "-1", "one", "sh"]])
def test_what_is_no_process(words: list[str]) -> None:
    with pytest.raises(Invalid):
        process(*words)
