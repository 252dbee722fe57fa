"""The other side of worker.py: what a worker does with its request. Small, for every worker imports it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from bireme.errors import Internal, Unavailable, to_wire

Say = Callable[[Any], None]
"""Tells progress."""


def serve(work: Callable[[dict[str, Any], Say], dict[str, Any]], too_large: str) -> int:
    """Do what the command line asks for and answer; the exit code. `too_large`: what to say when memory is short."""
    request = json.loads(sys.argv[1])
    control = int(request["control"])
    try:
        answer: dict[str, Any] = {"ok": work(request, lambda words: _tell(control, {"progress": words}))}
    except MemoryError:
        answer = {"error": to_wire(Unavailable(too_large))}
    except RecursionError as error:
        answer = {"error": to_wire(Internal(str(error)))}
    except Exception as error:
        answer = {"error": to_wire(error)}
    _tell(control, answer)
    return 0


def _tell(control: int, message: Mapping[str, Any]) -> None:
    view = memoryview(json.dumps(message).encode() + b"\n")
    while view:
        view = view[os.write(control, view) :]
