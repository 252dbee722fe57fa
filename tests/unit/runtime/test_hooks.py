"""Hooks are checked, and run with the state on stdin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bireme.errors import Internal, Invalid
from bireme.runtime import hooks


def sh(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], **more}


def test_state_environment_and_arguments(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f'cat > {out}; echo " $A $0 $(pwd) $(env | wc -l)" >> {out}'
    hooks.run("poststop", [sh(script, env=["PATH=/bin:/usr/bin", "A=b"])], b'{"id": 1}', str(tmp_path))
    assert out.read_text().startswith(f'{{"id": 1}} b sh {tmp_path} ')


def test_order_and_the_first_failure(tmp_path: Path) -> None:
    out = tmp_path / "out"
    entries = [sh(f"echo {n} >> {out}; exit {int(n == 2)}") for n in (1, 2, 3)]
    with pytest.raises(Internal, match="error running prestart hook #1: exit status 1"):
        hooks.run("prestart", entries, b"{}")
    assert out.read_text() == "1\n2\n"


def test_what_a_failing_hook_said() -> None:
    with pytest.raises(Internal, match="exit status 3, output: out\nerr"):
        hooks.run("poststart", [sh("echo out; echo err >&2; exit 3")], b"{}")
    with pytest.raises(Internal, match="signal 9"):
        hooks.run("poststart", [sh("kill -9 $$")], b"{}")
    with pytest.raises(Internal, match="/nothing/here"):
        hooks.run("poststart", [{"path": "/nothing/here"}], b"{}")


def test_a_timeout_ends_it() -> None:
    with pytest.raises(Internal, match="timeout after 1 s"):
        hooks.run("poststart", [sh("exec sleep 1000", timeout=1)], b"{}")


def test_floods_and_background_children_do_not_hold_it_up() -> None:
    hooks.run("poststart", [sh("head -c 3000000 /dev/zero | tr '\\0' x; (sleep 5; echo late) & exit 0")], b"{}")


def test_descriptors_stay_here() -> None:
    before = set(os.listdir("/proc/self/fd"))
    read, write = os.pipe()
    os.set_inheritable(write, True)
    with pytest.raises(Internal, match="output: 4"):
        hooks.run("poststart", [sh("ls /proc/self/fd | wc -l | grep -x '[0-9]*'; exit 1")], b"{}")
    os.close(read)
    os.close(write)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "given",
    [
        {"before": []},
        {"prestart": {}},
        {"prestart": ["/bin/true"]},
        {"prestart": [{}]},
        {"prestart": [{"path": "true"}]},
        {"prestart": [{"path": "/bin/true", "args": "x"}]},
        {"prestart": [{"path": "/bin/true", "env": [1]}]},
        {"prestart": [{"path": "/bin/true", "timeout": 0}]},
        {"prestart": [{"path": "/bin/true", "timeout": -1}]},
        {"prestart": [{"path": "/bin/true", "timeout": "5"}]},
    ],
)
def test_what_is_no_hook(given: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        hooks.check(given)


def test_empty_lists_are_left_out() -> None:
    assert hooks.check({"prestart": [], "poststop": [{"path": "/bin/true"}]}) == {"poststop": [{"path": "/bin/true"}]}
