"""Rules of every lane: markers skip (or fail, where the run promised the feature) before a fixture is built."""

from __future__ import annotations

import pytest

from tests.support import require

_PREFIX = "needs_"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers():
        if mark.name.startswith(_PREFIX):
            require.require(mark.name.removeprefix(_PREFIX))


def pytest_report_header(config: pytest.Config) -> list[str]:
    there = [name for name in require.FEATURES if not require.missing(name)]
    return [f"here: {', '.join(there) or 'nothing special'}"]
