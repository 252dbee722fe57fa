"""What the tree does not say: places of one machine, addresses of package archives, promises instead of code."""

from __future__ import annotations

import re

import pytest

from tests.source.tree import relative, tracked_files

TEXT = {".py", ".md", ".toml", ".c", ".h", ".sh", ".service", ".socket", ".conf", ".json", ""}
SELF = "tests/source/test_words.py"

FORBIDDEN = {
    "the path of one machine": r"""(^|[\s"'`(=:])(/work/[a-z.]|/root/\.|/home/[a-z]+/)|\.pyenv""",
    "a promise instead of code": r"\b(TODO|FIXME|XXX|HACK)\b",
    "a patched module": r"mock\.patch|monkeypatch\.setattr\(\s*[\"'](os|time|socket|subprocess)\.",
}
SCRIPTS_ONLY = {
    "an address outside this machine": r"https?://(?!(127\.|localhost|\[::1\]|www\.apache\.org))[a-z0-9.-]+\.[a-z]{2,}"
}


def offences(patterns: dict[str, str], *, prefixes: tuple[str, ...] = ("",)) -> list[str]:
    found = []
    for path in tracked_files():
        name = relative(path)
        if path.suffix not in TEXT or name in {SELF, "LICENSE"} or not name.startswith(prefixes):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found += [f"{name}:{number}: {what}" for what, pattern in patterns.items() if re.search(pattern, line)]
    return found


@pytest.mark.parametrize("what", sorted(FORBIDDEN))
def test_forbidden_words(what: str) -> None:
    assert not offences({what: FORBIDDEN[what]})


def test_scripts_fetch_through_package_managers_only() -> None:
    assert not offences(SCRIPTS_ONLY, prefixes=("Makefile", "tools/", ".ci/", "tests/guest/", "guest/", "packaging/"))
