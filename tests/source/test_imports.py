"""Imports that a linter's layers cannot say: what may be imported late, and what a small program may load at all.

A child between clone and exec cannot import: after the change of root the files are gone. And every module that the
supervisor and the OCI runtime load is start time and memory of every machine, so their lists are bounded here.
"""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.source.tree import ROOT, python_files, relative, syntax

SMALL_ROOMS = ("supervisor", "runtime", "vmm", "linux", "wire", "oci")
ENGINE_ONLY = {"bireme/oci/image_spec.py"}
"""Of the small rooms, but imported by image/ alone."""
HEAVY = {
    "asyncio",
    "msgspec",
    "httptools",
    "sqlite3",
    "isal",
    "ssl",
    "email",
    "http",
    "logging",
    "subprocess",
    "inspect",
}


def imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or ""]
    return []


def late_imports(path_name: str, tree: ast.Module) -> list[str]:
    """Imports written inside a function."""
    return [
        f"{path_name}:{node.lineno}: {name}"
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        for name in imports(node)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


HOST_SIDE = ("bireme/runtime/main.py", "bireme/runtime/command/", "bireme/runtime/defaults.py")


def test_what_runs_after_the_fork_imports_nothing_late() -> None:
    found = [
        entry
        for path in python_files("bireme")
        if relative(path).startswith("bireme/runtime/") and not relative(path).startswith(HOST_SIDE)
        for entry in late_imports(relative(path), syntax(path))
    ]
    assert not found


def test_only_linux_touches_ctypes_and_fcntl() -> None:
    found = [
        f"{relative(path)}: {name}"
        for path in python_files("bireme")
        if not relative(path).startswith("bireme/linux/")
        for node in ast.walk(syntax(path))
        for name in imports(node)
        if name.split(".")[0] in {"ctypes", "fcntl"}
    ]
    assert not found


def test_small_rooms_name_nothing_heavy() -> None:
    found = [
        f"{relative(path)}: {name}"
        for path in python_files("bireme")
        if relative(path).split("/")[1] in SMALL_ROOMS and relative(path) not in ENGINE_ONLY
        for node in ast.walk(syntax(path))
        for name in imports(node)
        if name.split(".")[0] in HEAVY
    ]
    assert not found


@pytest.mark.parametrize(
    ("program", "most"),
    [
        ("bireme.supervisor.keeper", 100),
        ("bireme.supervisor.main", 175),
        ("bireme.runtime.main", 120),
        ("bireme.vmm.child", 190),
    ],
)
def test_small_programs_load_few_modules(program: str, most: int) -> None:
    code = f"import sys; import {program}; print('\\n'.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = set(run.stdout.split())
    assert not loaded & HEAVY
    assert len(loaded) <= most
