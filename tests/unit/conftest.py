"""Tests here are generated in part."""

from __future__ import annotations

from tests.support.generated import no_wall_clock

no_wall_clock()
