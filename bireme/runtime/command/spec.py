"""`spec`: a config.json to start from, in the bundle's directory."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from bireme.errors import Conflict
from bireme.runtime.defaults import default_config

if TYPE_CHECKING:
    from bireme.runtime.main import Options


def run(options: Options) -> int:
    path = os.path.join(options.text("bundle") or ".", "config.json")
    config = default_config(terminal=True)
    try:
        with open(path, "x") as file:
            file.write(json.dumps(config, indent=4) + "\n")
    except FileExistsError:
        raise Conflict("File config.json exists. Remove it first", subject=path) from None
    return 0
