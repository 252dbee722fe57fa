"""The process that decodes a compressed archive: `python -I -m bireme.storage.decode_worker ROOT PARENT`.

Raw bytes come in on descriptor 0, decoded ones go out on 1, an error as JSON on 2. It is jailed without any capability
in an empty directory before it decodes anything.
"""

from __future__ import annotations

import json
import os
import sys

from bireme.errors import Unavailable, to_wire
from bireme.storage import jail
from bireme.storage.codec import MAGIC_MAX_BYTES, decode


def main() -> int:
    root, parent = int(sys.argv[1]), int(sys.argv[2])
    try:
        head = os.read(0, MAGIC_MAX_BYTES)
        chunks = decode(lambda count: os.read(0, count), head)
        jail.enter(root, parent)
        while view := memoryview(chunks()):
            while view:
                view = view[os.write(1, view) :]
    except MemoryError:
        return _fail(Unavailable("the archive needs too much memory to decode"))
    except Exception as error:
        return _fail(error)
    return 0


def _fail(error: BaseException) -> int:
    os.write(2, json.dumps(to_wire(error)).encode() + b"\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
