"""Runs of `bireme`: in this process for what only prints, as a program for what has a standard input or a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

import bireme
from bireme.cli.main import main

ROOT = Path(bireme.__file__).parent.parent
LAUNCH = "import sys; sys.path.insert(0, sys.argv.pop(1)); from bireme.cli.main import main; sys.exit(main())"
DEADLINE_S = 60.0


class Result(NamedTuple):
    code: int
    out: str
    err: str


def command(*words: str) -> list[str]:
    """The command line that starts our own program with nothing but the standard library."""
    return [sys.executable, "-I", "-S", "-c", LAUNCH, str(ROOT), *words]


def environment(**more: str) -> dict[str, str]:
    keep = ("PATH", "HOME", "TMPDIR")
    return {"TZ": "UTC", "LC_ALL": "C.UTF-8", **{name: os.environ[name] for name in keep if name in os.environ}} | more


def run_program(
    *words: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, cwd: str | Path | None = None
) -> Result:
    done = subprocess.run(
        command(*words),
        input=stdin,
        capture_output=True,
        env=environment() if env is None else dict(env),
        cwd=cwd,
        timeout=DEADLINE_S,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


class Cli:
    """`cli("ps", "-a")` against one engine, in this process."""

    def __init__(self, host: str, capture: pytest.CaptureFixture[str]) -> None:
        self.host = host
        self._capture = capture

    def __call__(self, *words: str) -> Result:
        self._capture.readouterr()
        code = main(["-H", self.host, *words])
        out, err = self._capture.readouterr()
        return Result(code, out, err)

    def ok(self, *words: str) -> str:
        """Standard output of a run that must succeed without a word on standard error."""
        result = self(*words)
        assert (result.code, result.err) == (0, ""), result
        return result.out


def lines(text: str) -> Sequence[str]:
    return text.splitlines()
