"""Documents: every relative link and every path they name exists, decisions are numbered and have their three parts."""

from __future__ import annotations

import re
from pathlib import Path

from tests.source.tree import ROOT, relative, tracked_files

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
NAMED_PATH = re.compile(r"`((?:bireme|tests|tools|bench|docs|guest|packaging)/[A-Za-z0-9_./-]+)`")


def documents() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".md"]


def test_links_resolve() -> None:
    broken = [
        f"{relative(document)}: {target}"
        for document in documents()
        for target in LINK.findall(document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert not broken


def test_named_paths_exist() -> None:
    missing = [
        f"{relative(document)}: {name}"
        for document in documents()
        for name in NAMED_PATH.findall(document.read_text())
        if document.name != "CHANGELOG.md" and not (ROOT / name).exists()
    ]
    assert not missing


def test_decisions_are_numbered_without_gaps_and_have_their_parts() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    lacking = [
        f"{path.name}: {part}"
        for path in decisions
        for part in ("## Context", "## Choice", "## Price")
        if part not in path.read_text()
    ]
    assert not lacking


def test_every_make_target_is_documented() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())  # type: ignore[index]
    described = set(re.findall(r"^([a-z]+):.*## ", makefile, re.M))
    assert targets == described
