"""Generated tests: importing this is what a folder's conftest does before its modules use hypothesis.

Not in the conftest of all tests: hypothesis takes half a second to import, and the lanes that use none are many.
"""

from __future__ import annotations

import importlib.util


def no_wall_clock() -> None:
    """Hypothesis's deadline and its check for slow generation fail on a busy machine, and say nothing about us."""
    if importlib.util.find_spec("hypothesis") is None:
        return
    from hypothesis import HealthCheck, settings

    settings.register_profile("bireme", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("bireme")
