"""`features`: what this runtime can do, in the specification's shape (features.md)."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from bireme.runtime.features import describe

if TYPE_CHECKING:
    from bireme.runtime.main import Options


def run(options: Options) -> int:
    sys.stdout.write(json.dumps(describe(), indent=2) + "\n")
    return 0
