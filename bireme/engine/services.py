"""The use cases an API is built on, put together by daemon/."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bireme.engine.console import Consoles
from bireme.engine.events import Events
from bireme.engine.execs import Execs
from bireme.engine.images import Images
from bireme.engine.instances import Instances
from bireme.engine.kernels import Kernels
from bireme.engine.logs import Logs
from bireme.engine.networks import Networks
from bireme.engine.system import System
from bireme.engine.tasks import TaskGroup

if TYPE_CHECKING:
    from bireme.engine.copying import Copying
    from bireme.engine.derive import Derivation
    from bireme.engine.sizes import Sizes
    from bireme.engine.volumes import Volumes


@dataclass(frozen=True)
class Services:
    instances: Instances
    consoles: Consoles
    copying: Callable[[], Copying]
    derivation: Callable[[], Derivation]
    execs: Execs
    images: Images
    kernels: Kernels
    logs: Logs
    networks: Networks
    volumes: Callable[[], Volumes]
    sizes: Callable[[], Sizes]
    events: Events
    system: System
    tasks: TaskGroup
