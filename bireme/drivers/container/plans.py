"""The plans made to check what is created, kept for the start that most often follows at once."""

from __future__ import annotations

import msgspec

from bireme.drivers.container.config import plan_network
from bireme.instance.driver import Placement
from bireme.instance.spec import InstanceId
from bireme.runtime.plan import LaunchPlan

KEPT = 32


class Plans:
    """The newest ones, each for one start."""

    def __init__(self) -> None:
        self._kept: dict[InstanceId, tuple[Placement, LaunchPlan]] = {}

    def keep(self, placement: Placement, plan: LaunchPlan) -> None:
        """Nothing is kept of an instance whose plan tells of the host's devices: they may be others when it starts."""
        if placement.spec.devices or placement.spec.security.privileged:
            return
        while len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[placement.id] = (placement, plan)

    def take(self, placement: Placement) -> LaunchPlan | None:
        """The plan for this start, if it was made for just such a placement but for its endpoints."""
        placed, plan = self._kept.pop(placement.id, (None, None))
        if plan is None or placed != msgspec.structs.replace(placement, endpoints=()):
            return None
        plan["network"] = plan_network(placement)
        return plan
