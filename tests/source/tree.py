"""The source tree as the tests in this directory read it."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def tracked_files() -> tuple[Path, ...]:
    """Every file of the checkout that git tracks or would track; without git, every file outside dot directories."""
    try:
        listing = subprocess.run(
            ["git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard", "-z"],
            check=True,
            capture_output=True,
        ).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
        listing = "\0".join(name for name in names if not name.startswith("."))
    return tuple(path for name in sorted(set(listing.split("\0"))) if name and (path := ROOT / name).is_file())


def python_files(*rooms: str) -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py" and relative(path).split("/")[0] in rooms]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines) of every function and method, decorators not counted."""
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1
