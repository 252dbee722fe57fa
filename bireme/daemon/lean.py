"""Modules that biremed's libraries take along when they find them and do without when they do not.

OpenSSL alone is 3 MiB of an idle engine (asyncio imports ssl, hashlib its bindings), and the engine is asked for a
small one. A name that is None in sys.modules imports as if it were not installed. To be called before those libraries
are imported. Workers are processes of their own: what decodes or hashes in bulk has everything.
"""

from __future__ import annotations

import gc
import sys

TLS = "ssl"
"""asyncio: for tcp:// addresses with TLS."""

_LEFT_OUT = (
    TLS,
    "typing_extensions",  # msgspec: for Pythons older than ours
    "bz2",  # shutil: for making archives
    "lzma",
)


def leave_out() -> None:
    """Make the imports fail from now on."""
    for name in _LEFT_OUT:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def take(name: str) -> None:
    """This one is needed after all."""
    if sys.modules.get(name) is None:
        sys.modules.pop(name, None)


def forget(*names: str) -> None:
    """These have done what they were imported for: what they lie in is used again by what is imported next."""
    for name in names:
        sys.modules.pop(name, None)
    gc.collect()
