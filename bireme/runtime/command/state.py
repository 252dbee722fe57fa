"""`state`: the OCI state as JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from bireme.runtime import state as store

if TYPE_CHECKING:
    from bireme.runtime.main import Options


def run(options: Options) -> int:
    sys.stdout.write(json.dumps(store.load(options.root, options.id).state(), indent=2) + "\n")
    return 0
