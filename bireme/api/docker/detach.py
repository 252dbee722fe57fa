"""The keys that leave a terminal without ending what runs in it (ctrl-p,ctrl-q unless told otherwise)."""

from __future__ import annotations

from bireme.errors import Invalid

DEFAULT_KEYS = b"\x10\x11"

_NAMED = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` or `a,b` as bytes; the default for an empty text. Invalid with dockerd's words."""
    if not text:
        return DEFAULT_KEYS
    keys = bytearray()
    for key in text.split(","):
        if len(key) == 1 and key.isascii():
            keys += key.encode()
            continue
        name = key.removeprefix("ctrl-")
        if name == key or len(name) != 1:
            raise Invalid(f"Invalid detach keys ({text}) provided", subject=text)
        if name in _NAMED:
            keys.append(_NAMED[name])
        elif "a" <= name <= "z":
            keys.append(ord(name) - ord("a") + 1)
        else:
            raise Invalid(f"Invalid detach keys ({text}) provided", subject=text)
    return bytes(keys)


class KeyWatcher:
    """Looks for the keys in what is typed. `feed` gives back what to pass on; `detached` once all keys were seen.

    Keys that began a sequence are held until the next byte decides.
    """

    __slots__ = ("_keys", "_seen", "detached")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._seen = 0
        self.detached = False

    def feed(self, data: bytes) -> bytes:
        keys = self._keys
        if self.detached or (not self._seen and keys[0] not in data):
            return data
        passed = bytearray()
        for byte in data:
            if byte == keys[self._seen]:
                self._seen += 1
                if self._seen == len(keys):
                    self.detached = True
                    break
                continue
            passed += keys[: self._seen]
            self._seen = 0
            if byte == keys[0]:
                self._seen = 1
                if len(keys) == 1:
                    self.detached = True
                    break
            else:
                passed.append(byte)
        return bytes(passed)
